# The same image as build/image.sh makes: one static binary, and nothing else.
#
#   docker build -t migration-gate .
#   docker buildx build --platform linux/amd64,linux/arm64 -t migration-gate .
#
# The build stage always runs on the builder's own processor and cross-compiles, since emulation takes an hour.
FROM --platform=$BUILDPLATFORM rust:1.95-slim@sha256:e14e87345b4d5964ddcc3491d27ee046a0f23820f340c3c1e24da6880141f7c0 AS build
ARG BUILDARCH
ARG TARGETARCH
WORKDIR /src
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# One dependency contains C and assembler, so building for another processor needs a C compiler.
RUN case $TARGETARCH in \
        amd64) machine=x86_64 ;; \
        arm64) machine=aarch64 ;; \
        *) echo "TARGETARCH=$TARGETARCH is not built here; add it to the Dockerfile" >&2; exit 1 ;; \
    esac; \
    rustup target add "$machine-unknown-linux-gnu"; \
    if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
        apt-get update -qq; \
        apt-get install -qq -y --no-install-recommends "gcc-${machine/_/-}-linux-gnu" "libc6-dev-$TARGETARCH-cross"; \
        linker=CARGO_TARGET_${machine^^}_UNKNOWN_LINUX_GNU_LINKER; \
        echo "export $linker=$machine-linux-gnu-gcc CC_${machine}_unknown_linux_gnu=$machine-linux-gnu-gcc" >/environment; \
    fi; \
    echo "export TARGET=$machine-unknown-linux-gnu" >>/environment
COPY Cargo.toml Cargo.lock LICENSE ./
COPY build build
COPY crates crates
COPY src src
# The image holds no libc, so the binary must bring its own.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    source /environment; \
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --package migration-gate --target "$TARGET"; \
    install -m 0755 "target/$TARGET/release/migration-gate" /migration-gate; \
    mkdir /licenses; \
    install -m 0644 LICENSE /licenses; \
    build/licences.sh "$TARGET" | gzip -9 --no-name >/licenses/THIRD-PARTY.gz

FROM scratch
COPY --from=build /licenses /licenses
COPY --from=build /migration-gate /migration-gate
USER 65532:65532
ENTRYPOINT ["/migration-gate"]
