"""Makes the bucket of `DUALFACE_STORE` where it is not there, then sees that it can be used.

Run once before the services start; repeating it changes nothing.
"""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

from minio import Minio
from minio.error import S3Error

from shared.errors import PermanentError
from shared.settings import Settings
from shared.storage import check_store

THERE = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


def main(settings: Settings) -> int:
    """0 when all is well, else 1 and a sentence."""
    try:
        made = make_bucket(settings)
        check_store(settings)
    except (PermanentError, S3Error, OSError) as error:
        print(f"The bucket of {settings.store} can't be had: {error}", file=sys.stderr)
        return 1
    print(f"{settings.store} {'was made' if made else 'is there'}")
    return 0


def make_bucket(settings: Settings) -> bool:
    """False when it was there. Raises S3Error, OSError."""
    at = urlsplit(settings.s3_endpoint)
    client = Minio(
        at.netloc,
        access_key=_secret(settings, "access"),
        secret_key=_secret(settings, "secret"),
        secure=at.scheme == "https",
        region=settings.s3_region or "us-east-1",
    )
    bucket = urlsplit(settings.store).netloc
    if client.bucket_exists(bucket):
        return False
    try:
        client.make_bucket(bucket)
    except S3Error as error:
        if error.code not in THERE:  # else another was quicker
            raise
        return False
    return True


def _secret(settings: Settings, which: str) -> str:
    value = {"access": settings.s3_access_key, "secret": settings.s3_secret_key}[which]
    file = {"access": settings.s3_access_key_file, "secret": settings.s3_secret_key_file}[which]
    return value.get_secret_value() or (file.read_text().strip() if file is not None else "")


if __name__ == "__main__":
    sys.exit(main(Settings.load()))
