#!/bin/sh
# What `make run` starts: the demo upstream, the gateway on the embedded store, and the lines to try.
# Both end together, on Ctrl-C or when one of them fails.
set -eu
cd "$(dirname "$0")/.."

bin=${CARGO_TARGET_DIR:-target}/debug
"$bin/examples/demo_upstream" 127.0.0.1:9001 examples/browser &
upstream=$!
"$bin/portcullis" run --config conf/portcullis.yaml &
gateway=$!
trap 'kill $upstream $gateway 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

# Ready, or dead: either is known within seconds.
tries=0
until curl -sf -o /dev/null http://127.0.0.1:9090/readyz 2>/dev/null; do
    kill -0 $upstream 2>/dev/null || { echo "the demo upstream did not start; its reason stands above" >&2; exit 1; }
    kill -0 $gateway 2>/dev/null || { echo "the gateway did not start; its reason stands above" >&2; exit 1; }
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { echo "the gateway is not ready: $(curl -s http://127.0.0.1:9090/readyz)" >&2; exit 1; }
    sleep 0.1
done

cat <<'LINES'

Portcullis is up: http://127.0.0.1:8080, metrics on http://127.0.0.1:9090/metrics.
A page to log in with: http://127.0.0.1:8080/app/. Or, in another terminal:

  curl -s http://127.0.0.1:8080/hello
  curl -si http://127.0.0.1:8080/orders
  curl -s http://127.0.0.1:8080/auth/login -H 'Content-Type: application/json' \
       -d '{"username":"alice","password":"wonderland"}'

The README goes on from there: call with the token, refresh, replay, log out. Ctrl-C stops both.

LINES
wait $gateway
