"""Settings of the guard inside MLflow's server."""

from pydantic import Field, SecretStr

from registry.settings import KeySettings


class GuardSettings(KeySettings):
    """Which database to guard, and who may move versions to Production."""

    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="GREENROOM_DATABASE_URL: PostgreSQL of the registry, as the role that MLflow runs as. "
        "Default: MLflow's own --backend-store-uri.",
    )
    promoters: str = Field(
        default="",
        description="GREENROOM_PROMOTERS: names of MLflow users (basic-auth), separated by commas, who may "
        "change what is in Production. With a login on and no names, nobody may.",
    )

    @property
    def promoter_names(self) -> frozenset[str]:
        """The users who may change what is in Production."""
        return frozenset(filter(None, (name.strip() for name in self.promoters.split(","))))


class MigrationSettings(GuardSettings):
    """What `greenroom migrate` needs besides."""

    database_admin_url: SecretStr = Field(
        default=SecretStr(""),
        description="GREENROOM_DATABASE_ADMIN_URL: the same database as a role that owns, or may take over, "
        "MLflow's tables. It is not the role that MLflow runs as.",
    )
