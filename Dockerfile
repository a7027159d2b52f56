# Builds the gateway and puts it alone into a small image that runs as nobody in particular.
FROM rust:1-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY examples examples
COPY tests tests
COPY benches benches
COPY conf/reference.yaml conf/reference.yaml
RUN cargo build --locked --release --bin portcullis

FROM debian:bookworm-slim
# Roots for https issuers and upstreams.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home portcullis \
    && install -d -o portcullis /etc/portcullis /var/lib/portcullis
COPY --from=build /src/target/release/portcullis /usr/local/bin/portcullis
USER 10001
# Mount the configuration at /etc/portcullis; let its data paths point below /var/lib/portcullis.
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["run", "--config", "/etc/portcullis/portcullis.yaml"]
STOPSIGNAL SIGTERM
