# syntax=docker/dockerfile:1

# The same build as `bun run build`: one executable.
FROM oven/bun:1.4.4-slim AS build
WORKDIR /src
COPY package.json bun.lock bunfig.toml ./
RUN bun install --frozen-lockfile --production --ignore-scripts
COPY tsconfig.json build.ts ./
COPY src ./src
COPY db ./db
RUN bun build.ts && mkdir -p /data

# glibc and nothing else: no shell, no package manager, no OpenSSL, not root (uid 65532).
FROM gcr.io/distroless/base-nossl-debian12:nonroot
COPY --from=build --chown=65532:65532 /data /data
COPY --from=build /src/dist/argo-alpine /usr/local/bin/argo-alpine
ENV HOST=0.0.0.0 PORT=3000 DATA_DIR=/data
VOLUME /data
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s CMD ["argo-alpine", "health"]
ENTRYPOINT ["argo-alpine"]
CMD ["serve"]
