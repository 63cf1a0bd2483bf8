"""The target database of the turbines' statistics."""

from collections.abc import Callable

from etl_assets.core.database.connections import Database
from etl_assets.core.servers import beside_platform
from etl_assets.systems.turbines.settings import TurbinesSettings

TARGET = "alvo"


def turbines_target(settings: TurbinesSettings | None = None) -> Database:
    """The target database; by default one beside the platform's, on the same server."""
    settings = settings or TurbinesSettings.load()
    if settings.turbines_target_url is not None:
        url: str | Callable[[], str] = settings.required("turbines_target_url")
    else:
        url = beside_platform(settings, TARGET, variable="TURBINES_TARGET_URL")
    return Database(url, name="target", migrate=settings.etl_migrate)


DATABASES = {"target": turbines_target}
