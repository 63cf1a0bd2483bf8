"""Records on their way from the API through the broker to their tables; each step goes on exactly where it stopped."""

from etl_assets.systems.production.streaming.draining import Drained, drain, reset
from etl_assets.systems.production.streaming.position import committed_position
from etl_assets.systems.production.streaming.relaying import Relayed, relay

__all__ = ["Drained", "Relayed", "committed_position", "drain", "relay", "reset"]
