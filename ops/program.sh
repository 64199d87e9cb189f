#!/bin/sh
# One program of the system as supervisord runs it (ops/supervisord.conf): sh program.sh NAME
#
# COURIER_ENV_FILE  names a file of NAME=value lines, read here at each start by sh: a rolling
#                   restart is enough to change a setting. Secrets are better in files of their own
#                   (COURIER_API_PASSWORD_FILE ...): they are in no process's environment then.
# COURIER_BIN       the bin folder of the Python environment, where that isn't on PATH.
set -eu
if [ -n "${COURIER_ENV_FILE:-}" ]; then
  # Without the BOM and the CRs of a file that was written on Windows.
  settings=$(sed -e "1s/^$(printf '\357\273\277')//" -e "s/$(printf '\r')*\$//" "$COURIER_ENV_FILE")
  set -a
  eval "$settings"
  set +a
fi
PATH="${COURIER_BIN:+$COURIER_BIN:}$PATH"
ns=$(printf %s "${COURIER_NAMESPACE:-courier}" | tr -d '\r')

worker() { # name, processes, queues
  exec celery -q -A viber_courier.worker worker -n "$1@%h" -c "$2" -Q "$3" -l INFO \
    --without-gossip --without-mingle
}

needs() { # variable, its value: without one, sleep
  [ -n "$2" ] && return
  echo "program.sh: no $program, $1 is not set" >&2
  exec sleep 2147483647  # an end would be a failure to a supervisor, and to `supervisorctl status`
}

program=$1
send="$ns.send"
case "$1" in
  send-urgent) worker "$1" "${COURIER_PROCESSES_URGENT:-4}" "$send.realtime,$send.high" ;;
  send-bulk) # 12: enough for a provider that takes 50 ms for an answer
    worker "$1" "${COURIER_PROCESSES_BULK:-12}" \
      "$send.realtime,$send.high,$send.normal,$send.low,$ns.enqueue" ;;
  poll) worker "$1" "${COURIER_PROCESSES_POLL:-3}" "$ns.poll,$ns.enqueue" ;;
  beat) exec celery -q -A viber_courier.worker beat -l INFO ;;
  flower) exec courier flower ;;
  exporter)
    exec courier exporter --host "${COURIER_EXPORTER_HOST:-127.0.0.1}" \
      --port "${COURIER_EXPORTER_PORT:-9540}" ;;
  gateway)
    needs COURIER_GATEWAY_TOKENS "${COURIER_GATEWAY_TOKENS:-}"
    exec courier gateway --host "${COURIER_GATEWAY_HOST:-127.0.0.1}" \
      --port "${COURIER_GATEWAY_PORT:-8080}" ;;
  webhook)
    needs COURIER_WEBHOOK_URL "${COURIER_WEBHOOK_URL:-}"
    exec courier webhook ;;
  forward)
    needs COURIER_FORWARD_BROKER "${COURIER_FORWARD_BROKER:-}"
    COURIER_FORWARD_CONSUMER="${COURIER_FORWARD_CONSUMER:-$(hostname)}" exec courier forward ;;
  console)
    needs "COURIER_CONSOLE_LOGIN or COURIER_CONSOLE_USERS" \
      "${COURIER_CONSOLE_LOGIN:-}${COURIER_CONSOLE_LOGIN_FILE:-}${COURIER_CONSOLE_USERS:-}"
    exec courier console --host "${COURIER_CONSOLE_HOST:-127.0.0.1}" \
      --port "${COURIER_CONSOLE_PORT:-8090}" ;;
  *)
    echo "program.sh: no program is called $1" >&2
    exit 2 ;;
esac
