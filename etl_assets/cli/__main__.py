"""`python -m etl_assets.cli`."""

from etl_assets.cli import main

main()
