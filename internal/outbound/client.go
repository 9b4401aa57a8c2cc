package outbound

import (
	"net/http"
	"time"
)

// NewClient returns what makes calls of the gateway's own.
func NewClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DisableCompression: true, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
			MaxResponseHeaderBytes: 16 << 10, TLSHandshakeTimeout: 10 * time.Second,
		},
		CheckRedirect: NoRedirect,
	}
}

// NoRedirect keeps a client where it is: whoever the platform sends us to is not the platform.
func NoRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
