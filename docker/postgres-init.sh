#!/bin/sh
# Runs once, on an empty volume: a role with a database of its own for the data and for Dagster, neither a superuser;
# and the target of the turbines, which the role of the data owns too.
set -eu
for name in etl dagster; do
    case "$name" in
        etl) password="$ETL_POSTGRES_PASSWORD" ;;
        dagster) password="$DAGSTER_POSTGRES_PASSWORD" ;;
    esac
    # From standard input: psql replaces variables there, and arguments can be seen in the list of processes.
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<SQL
\set name '$name'
\set password '$password'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name" TEMPLATE template0 ENCODING 'UTF8';
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<SQL
CREATE DATABASE alvo OWNER etl TEMPLATE template0 ENCODING 'UTF8';
REVOKE CONNECT ON DATABASE alvo FROM PUBLIC;
SQL
