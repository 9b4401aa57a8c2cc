package inbound

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// AccessLogger returns the logger of Caddy's access log in the configuration that ctx provisions.
func AccessLogger(ctx caddy.Context) *zap.Logger {
	return ctx.Logger(new(caddyhttp.App)).Named("log.access")
}

// HideQuery replaces Caddy's access log entry of a request, because that entry would contain the query. No handler could
// remove it: Caddy copies the request before the first handler runs.
//
// HideQuery returns a function that writes the entry without the query. The caller must call it when the request has been
// handled. The entry goes where Caddy's own would have gone, but lacks what other handlers (log_append) add to that one. At
// level DEBUG, Caddy and its handlers log requests in other places too.
func HideQuery(logger *zap.Logger, w http.ResponseWriter, r *http.Request) (write func(status, size int, header http.Header, fields ...zap.Field)) {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	skip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar).(bool)
	if !ok || server == nil || server.Logs == nil || skip || r.URL.RawQuery == "" && !r.URL.ForceQuery || !isLogged(w) {
		return func(int, int, http.Header, ...zap.Field) {}
	}
	start := time.Now()
	shown := r.Clone(r.Context())
	shown.RequestURI, _, _ = strings.Cut(r.RequestURI, "?")
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	return func(status, size int, header http.Header, fields ...zap.Field) {
		level := zapcore.InfoLevel
		if status >= 500 {
			level = zapcore.ErrorLevel
		}
		credentials := server.Logs.ShouldLogCredentials
		userID := ""
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			userID, _ = repl.GetString("http.auth.user.id")
		}
		for _, name := range accessLoggerNames(server.Logs, r) {
			named := logger
			if name != "" {
				named = logger.Named(name)
			}
			if entry := named.Check(level, "handled request"); entry != nil {
				entry.Write(append([]zap.Field{
					zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: shown, ShouldLogCredentials: credentials}),
					zap.Int("bytes_read", 0), zap.String("user_id", userID), zap.Duration("duration", time.Since(start)),
					zap.Int("size", size), zap.Int("status", status),
					zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: header, ShouldLogCredentials: credentials}),
				}, fields...)...)
			}
		}
	}
}

// isLogged reports whether Caddy records the answer for its access log. It does so only if it will write an entry.
func isLogged(w http.ResponseWriter) bool {
	for {
		if _, ok := w.(caddyhttp.ResponseRecorder); ok {
			return true
		}
		wrapped, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = wrapped.Unwrap()
	}
}

// accessLoggerNames returns the names that Caddy gives the entry's loggers (caddyhttp/logging.go, wrapLogger).
func accessLoggerNames(logs *caddyhttp.ServerLogConfig, r *http.Request) []string {
	if names, ok := caddyhttp.GetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		chosen := make([]string, 0, len(names))
		for _, name := range names {
			text, _ := name.(string)
			chosen = append(chosen, text)
		}
		return chosen
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	host = strings.ToLower(host)
	if names, ok := logs.LoggerNames[host]; ok {
		return names
	}
	labels := strings.Split(host, ".")
	for i, label := range labels {
		if label == "" {
			continue
		}
		labels[i] = "*"
		if names, ok := logs.LoggerNames[strings.Join(labels, ".")]; ok {
			return names
		}
	}
	return []string{logs.DefaultLoggerName}
}

// HandlesErrors reports whether the server of a request has handle_errors. Without it, Caddy logs requests that end in an
// error of 500 or more at level ERROR.
func HandlesErrors(r *http.Request) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return ok && server != nil && server.Errors != nil && len(server.Errors.Routes) > 0
}

// ErrorStatus returns the status with which Caddy answers an error of a handler.
func ErrorStatus(err error) int {
	if failed, ok := errors.AsType[caddyhttp.HandlerError](err); ok && failed.StatusCode != 0 {
		return failed.StatusCode
	}
	return http.StatusInternalServerError
}
