# Builds the gateway and puts it into an image where it is nobody in particular and needs no shell. By default
# that is Debian's, where one can look around; `--target bare` holds nothing but the gateway.

# Any image with Rust and Debian's packages will do for the first.
ARG RUST=docker.io/library/rust:1-bookworm
ARG DEBIAN=docker.io/library/debian:bookworm-slim

FROM ${RUST} AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY examples examples
COPY tests tests
COPY benches benches
COPY fuzz fuzz
COPY conf/reference.yaml conf/reference.yaml
RUN cargo build --locked --release --bin portcullis
# Everything the bare image holds. The libraries are those the binary asks for, where it looks for them; glibc's own
# resolver is among them.
RUN install -D target/release/portcullis /image/usr/local/bin/portcullis \
    && ldd target/release/portcullis | grep -o '/[^ ]*' | xargs cp -L --parents -t /image \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt -t /image/etc/ssl/certs \
    && install -d /image/etc/portcullis \
    && install -d -o 10001 -g 10001 -m 700 /image/var/lib/portcullis \
    && echo 'portcullis:x:10001:10001::/nonexistent:/nonexistent' > /image/etc/passwd \
    && echo 'hosts: files dns' > /image/etc/nsswitch.conf

# In both, the configuration is mounted at /etc/portcullis; its data paths point below /var/lib/portcullis, the only
# place that is written to.
FROM scratch AS bare
COPY --from=build /image /
USER 10001:10001
VOLUME /var/lib/portcullis
EXPOSE 8080 9090
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["run", "--config", "/etc/portcullis/portcullis.yaml"]
STOPSIGNAL SIGTERM

FROM ${DEBIAN}
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /image/usr/local/bin/portcullis /usr/local/bin/portcullis
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin portcullis \
    && install -d /etc/portcullis && install -d -o 10001 -g 10001 -m 700 /var/lib/portcullis
USER 10001:10001
VOLUME /var/lib/portcullis
EXPOSE 8080 9090
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["run", "--config", "/etc/portcullis/portcullis.yaml"]
STOPSIGNAL SIGTERM
