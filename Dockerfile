# Caddy with caddy-chinaums, as a static binary on nothing but certificates.
#
#	docker build -t caddy-chinaums .
#	docker build -t caddy-chinaums --build-arg GOPROXY=https://goproxy.cn,direct .   # in mainland China
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
ARG GOPROXY=https://proxy.golang.org,direct
ARG TARGETOS TARGETARCH
ENV GOPROXY=$GOPROXY CGO_ENABLED=0
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath \
	-ldflags "-s -w -X github.com/caddy-chinaums/caddy-chinaums.version=$VERSION" -o /out/caddy ./cmd/caddy \
	&& mkdir -p /out/data /out/config

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/caddy /usr/bin/caddy
# Messages, certificates and sealed keys are in /data: keep it. Caddy saves the configuration that it loaded last in /config.
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build --chown=65532:65532 /out/config /config
COPY packaging/Caddyfile /etc/caddy/Caddyfile
ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config
VOLUME /data
EXPOSE 80 443 443/udp
USER 65532:65532
# A call that has been sent runs to its end: stop with docker stop --time 90.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/usr/bin/caddy", "chinaums", "health"]
ENTRYPOINT ["/usr/bin/caddy"]
CMD ["run", "--config", "/etc/caddy/Caddyfile"]
