# syntax=docker/dockerfile:1
# A small image of the hub, without root. README.md says how to run it.

FROM rust:1.95-slim-bookworm AS builder
WORKDIR /build

# First the dependencies alone, as a layer that only a change of theirs builds anew.
COPY Cargo.toml Cargo.lock ./
COPY loadtest/Cargo.toml loadtest/
RUN mkdir -p src loadtest/src \
    && echo 'fn main() {}' | tee src/main.rs loadtest/src/main.rs >/dev/null \
    && touch src/lib.rs loadtest/src/lib.rs \
    && cargo build --release --locked --package tickhub \
    && rm -r src

COPY src src
# The sources may be older than the stand-ins that were just built.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --package tickhub --bin tickhub \
    && strip target/release/tickhub

FROM debian:bookworm-slim
# Nothing is installed: the root certificates of venues are compiled in.
RUN useradd --system --uid 10001 --home-dir /var/lib/tickhub --create-home --shell /usr/sbin/nologin tickhub
COPY --from=builder /build/target/release/tickhub /usr/local/bin/tickhub
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/tickhub/
USER tickhub
WORKDIR /var/lib/tickhub

# Reachable from outside the container, so the hub asks for keys: without any it says so and ends.
# The operations listener stays inside, where the health check is; to scrape it from outside, set
# TICKHUB__SERVER__OPS_LISTEN=0.0.0.0:9090 and publish the port to your monitoring only.
ENV TICKHUB__SERVER__LISTEN=0.0.0.0:8080 \
    TICKHUB__SERVER__OPS_LISTEN=127.0.0.1:9090 \
    TICKHUB__SERVER__STATE_DIR=/var/lib/tickhub \
    TICKHUB__LOG__FORMAT=json
EXPOSE 8080 9090

# bash speaks HTTP well enough; the image has no curl. A hub that drains is alive.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${TICKHUB__SERVER__OPS_LISTEN##*:} && printf 'GET /livez HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r answer <&3 && [[ $answer == *' 200 '* ]]"]

# The hub drains: it tells everyone to come back, spread over timeouts.drain (5 s).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/tickhub"]
CMD ["serve"]
