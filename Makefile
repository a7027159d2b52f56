# Two commands are all a newcomer needs: `make run` and `make test`.

.PHONY: help run test soak fuzz bench bench-gateway gate image build-tools test-tools

help:
	@echo "make run    build, start the gateway with a demo upstream, print the curl lines to try"
	@echo "make test   install what the tests need, run everything"
	@echo "make fuzz   fuzz every parser for FUZZ_SECONDS (20) each"
	@echo "make bench  what a rotation costs beside Redis's own price for it, and the parts of a request"
	@echo "make bench-gateway  what the whole gateway costs beside a raw Pingora passthrough and HAProxy"
	@echo "make gate   fail if a warm request takes more instructions than it did"
	@echo "make soak   the long forms of some tests, more than an hour"

# The packages are Debian's. As root they are installed; otherwise the line to run is printed.
build-tools:
	@sh .ci/packages cc=build-essential cmake=cmake

# Where Debian's Python has its packages.
PYTHON := /usr/lib/python3/dist-packages

# procps has `kill`, which is never missing as a word of the shell.
test-tools: build-tools
	@sh .ci/packages redis-server=redis-server prometheus=prometheus nginx=nginx curl=curl pgrep=procps \
		/usr/bin/python3=python3 $(PYTHON)/websockets=python3-websockets $(PYTHON)/grpc=python3-grpcio \
		/usr/bin/jsonschema=python3-jsonschema chromium=chromium chromedriver=chromium-driver \
		$(PYTHON)/yaml=python3-yaml systemd-analyze=systemd openssl=openssl \
		setpriv=util-linux /usr/lib/postgresql=postgresql /usr/sbin/slapd=slapd /usr/sbin/mariadbd=mariadb-server

run: build-tools
	@sh .ci/packages curl=curl
	cargo build --locked --bin portcullis --example demo_upstream
	@sh examples/demo.sh

test: test-tools
	cargo build --locked --bins --examples
	cargo test --locked

# One after the other, so that each has the machine to itself.
# Slow clients meet the optimized program: of the other, opening and closing 4,000 connections takes all the machine.
soak: test-tools
	cargo build --locked --bins
	PORTCULLIS_SOAK_OUTAGE=60 cargo test --locked --test tests -- --nocapture outage::
	PORTCULLIS_SOAK_TRANSFER=1024 cargo test --locked --test tests -- --nocapture transfers::
	PORTCULLIS_SOAK_FORGED=1000000 cargo test --locked --test tests -- --nocapture forgery::
	PORTCULLIS_SOAK_MIXED=1800 cargo test --locked --test tests -- --nocapture soak::
	PORTCULLIS_SOAK_SLOW=2000 cargo test --locked --profile gate --test tests -- --nocapture slow_clients_are_gone
	PORTCULLIS_SOAK_IDLE=20000 cargo test --locked --test tests -- --nocapture idle_connections_cost
	PORTCULLIS_SOAK_EXIT=1 cargo test --locked --test tests -- --nocapture sigterm_under_load
	PORTCULLIS_SOAK_ROTATIONS=100000 cargo test --locked --lib -- --nocapture size_tests::

fuzz: build-tools
	@sh fuzz/run.sh

bench: build-tools
	@sh .ci/packages redis-server=redis-server redis-benchmark=redis-tools
	cargo bench --locked --bench rotate
	cargo bench --locked --bench parts

bench-gateway: build-tools
	@sh .ci/packages haproxy=haproxy taskset=util-linux
	cargo bench --locked --profile gate --bench gateway

# Of the programs the tests are run with, so that nothing else has to be built.
gate: build-tools
	@sh .ci/packages valgrind=valgrind
	cargo bench --locked --profile dev --bench gateway -- gate

# With whatever builder is there.
image:
	$$(command -v docker || command -v podman || command -v buildah) build -t portcullis .
