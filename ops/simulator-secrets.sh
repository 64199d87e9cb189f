#!/bin/sh
# The folder secrets for the simulated provider; the pages' passwords are made up. What is there stays.
set -eu
mkdir -p secrets
keep() { # name, value
  [ -e "secrets/$1" ] || printf '%s' "$2" > "secrets/$1"
}
made_up() { od -An -N12 -tx1 /dev/urandom | tr -d ' \n'; }
keep api_login tester
keep api_password 111111
keep console_password "$(made_up)"
keep flower_password "$(made_up)"
keep grafana_password "$(made_up)"
keep gateway_token "$(made_up)"  # the app's; the gateway has its hash
keep gateway_tokens "demo:$(sha256sum < secrets/gateway_token | cut -c1-64)"
keep suppression_key "$(made_up)"
keep webhook_secret "whsec_$(od -An -N24 -vtx1 /dev/urandom | tr -d ' \n')"  # hex is base64, too
# Containers read them under users of their own, so all may; the folder is this user's. The same
# goes for the mounted files of a checkout under umask 077.
chmod 700 secrets
chmod 444 secrets/*
ops=$(dirname "$0")
chmod -R go+rX "$ops/redis.conf" "$ops/prometheus" "$ops/grafana"
echo "Flower, Grafana, console: operator, with the passwords in secrets/flower_password, grafana_password, console_password"
