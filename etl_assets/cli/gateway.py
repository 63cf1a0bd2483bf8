"""`etl-assets gateway`: the HTTP API, and a Dagster of its own where no other is named."""

import json
import os
from pathlib import Path

import typer

from etl_assets.local import background as local
from etl_assets.settings import Settings, load_settings

# Not of the runs' business: what they print may be read by more people than may start them.
OF_THE_GATEWAY_ONLY = "ETL_GATEWAY_TOKEN"

# Runs and events stay in the local home, where every command looks for them; but a run starts at once, without a queue,
# whose daemon the gateway does not have.
CONFIGURATION = """\
telemetry: {{enabled: false}}
nux: {{enabled: false}}
storage: {{sqlite: {{base_dir: {home}}}}}
local_artifact_storage:
  module: dagster._core.storage.root
  class: LocalArtifactStorage
  config: {{base_dir: {home}}}
compute_logs:
  module: dagster._core.storage.local_compute_log_manager
  class: LocalComputeLogManager
  config: {{base_dir: {logs}}}
run_coordinator:
  module: dagster._core.run_coordinator.default_run_coordinator
  class: DefaultRunCoordinator
"""


def gateway(
    host: str = typer.Option("127.0.0.1", help="Address to listen on; another one than loopback needs a token."),
    port: int = typer.Option(None, help="Port to listen on instead of ETL_GATEWAY_PORT."),
) -> None:
    """Serve the HTTP API until Ctrl-C: trigger and follow runs, read features and US events."""
    from etl_assets.gateway.access import require_loopback
    from etl_assets.gateway.own_dagster import OwnDagster
    from etl_assets.gateway.server import run

    settings = load_settings() if port is None else load_settings(etl_gateway_port=port)
    require_loopback(host, settings)
    if settings.dagster_graphql_url is not None:
        run(settings, host=host)
        return
    environment = {**os.environ, "ETL_DATA_DIR": str(settings.etl_data_dir)}
    environment.pop(OF_THE_GATEWAY_ONLY, None)
    run(settings, host=host, own_dagster=OwnDagster(prepare_gateway_home(settings), environment))


def prepare_gateway_home(settings: Settings) -> Path:
    """Make the DAGSTER_HOME of the gateway's own Dagster, which keeps its runs in the local one."""
    shared = local.prepare_home(settings)
    home = settings.etl_data_dir / "gateway"
    home.mkdir(parents=True, exist_ok=True)
    # A JSON text is a YAML text, whatever is in the path.
    configuration = CONFIGURATION.format(home=json.dumps(str(shared)), logs=json.dumps(str(shared / "storage")))
    (home / local.CONFIGURATION).write_text(configuration)
    return home
