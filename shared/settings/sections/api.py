"""REST, its page, webhooks, Flower, clients."""

from typing import ClassVar

from pydantic import Field, SecretStr, field_validator

from shared.references import host_rules
from shared.settings.section import Section


class Api(Section):
    """REST, its page, webhooks, Flower, clients."""

    section: ClassVar[str] = "api"
    omitted: ClassVar[str] = "api_"

    api_host: str = Field(
        default="127.0.0.1",
        description="Where the API listens; 0.0.0.0 in a container, behind a proxy with TLS.",
    )
    api_port: int = Field(default=8000, ge=0, le=65535, description="Of the API and its page.")
    api_url: str = Field(
        default="", description="`https://HOST[:PORT]` of the service that client commands speak "
        "to. Empty: the local stack that is up."
    )  # fmt: skip
    api_key: SecretStr = Field(
        default=SecretStr(""), description="And the key for it; the local stack's own is known."
    )
    api_secure_cookies: bool = Field(
        default=False, description="Browsers send the session by https only; set it behind TLS."
    )
    webhook_hosts: tuple[str, ...] = Field(
        default=("*",),
        description="Hosts that may be told of a job's end, as in `source_hosts`; * is every one "
        "of the public internet, by https. Empty: none.",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Signs webhooks of jobs that came without an API key; those of others are "
        "signed by their owner's own. Empty: such jobs may have no webhook.",
    )
    flower_host: str = Field(default="127.0.0.1", description="Where Flower listens.")
    flower_port: int = Field(default=5555, ge=0, le=65535, description="Of Flower.")
    flower_user: str = Field(default="dualface", description="Who may use Flower.")
    flower_password: SecretStr = Field(
        default=SecretStr(""), description="Flower is not started without: it can end workers."
    )
    result_links: bool = Field(
        default=True, description="Downloads of results go to the object store by a link, where "
        "it gives links. Off: all pass through the API, for stores that clients can't reach."
    )  # fmt: skip
    submit_queues: tuple[str, ...] = Field(
        default=("dualface", "celery"),
        description="Queues from which `dualface.submit` is taken, as a JSON list; `celery` is "
        "where a Celery client sends what it names no queue for.",
    )

    @field_validator("webhook_hosts")
    @classmethod
    def _are_webhook_hosts(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        host_rules(entries)
        return entries
