#!/bin/sh
# Passwords and keys for compose.yaml, made up on the spot: .env and deploy/docker/secrets/. What is
# there already stays as it is, so it may be run again at any time. Needs nothing but a shell.
set -eu
cd "$(dirname "$0")/../.."

random() { # LENGTH: letters and digits only, as one of them stands in a URL
  LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c "$1"
}

# The folder is closed to others. The files in it are not: Docker mounts them as they are, and the
# containers' users have to read them.
secrets=deploy/docker/secrets
mkdir -p "$secrets"
chmod 700 "$secrets"
for secret in s3-access-key:20 s3-secret-key:40 grafana-password:24; do
  file=$secrets/${secret%:*}
  if [ ! -s "$file" ]; then
    random "${secret#*:}" >"$file"
    chmod 444 "$file"
  fi
done

if [ ! -e .env ]; then
  (
    umask 077
    sed -e "s/^REDIS_PASSWORD=$/&$(random 32)/" \
      -e "s/^FLOWER_PASSWORD=$/&$(random 24)/" .env.example >.env
  )
fi
echo "Ready: .env and $secrets. Back them up with the data; start by: docker compose up -d"
