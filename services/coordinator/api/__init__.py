"""REST: takes jobs and sources, tells how jobs stand, hands results out. A process of its own.

It writes into the ledger and the store, as any client does, and keeps nothing itself: several may
run beside each other, and each may die at any moment.
"""
