package artifact

import (
	"path"
	"strings"
)

// The machine's own list of types is not asked, so that an artifact is served
// alike whichever machine it was made on.
var typesByExtension = map[string]string{
	".bz2": "application/x-bzip2", ".css": "text/css; charset=utf-8", ".csv": "text/csv; charset=utf-8", ".deb": "application/vnd.debian.binary-package",
	".gif": "image/gif", ".gz": "application/gzip", ".htm": "text/html; charset=utf-8", ".html": "text/html; charset=utf-8",
	".jar": "application/java-archive", ".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".js": "text/javascript; charset=utf-8", ".json": "application/json",
	".log": "text/plain; charset=utf-8", ".md": "text/markdown; charset=utf-8", ".mjs": "text/javascript; charset=utf-8", ".mp4": "video/mp4",
	".ndjson": "application/x-ndjson", ".pdf": "application/pdf", ".png": "image/png", ".sh": "text/x-shellscript; charset=utf-8", ".svg": "image/svg+xml",
	".tar": "application/x-tar", ".tgz": "application/gzip", ".txt": "text/plain; charset=utf-8", ".wasm": "application/wasm", ".webm": "video/webm",
	".webp": "image/webp", ".whl": "application/zip", ".xml": "application/xml", ".xz": "application/x-xz", ".yaml": "application/yaml",
	".yml": "application/yaml", ".zip": "application/zip", ".zst": "application/zstd",
}

// typeOf finds the media type of a file by its name.
func typeOf(name string) string {
	if t, found := typesByExtension[strings.ToLower(path.Ext(name))]; found {
		return t
	}
	return "application/octet-stream"
}

// compressible reports whether files of a media type are known to gain by
// compression. Of one that is not known nothing is assumed: tools that take no
// notice of a Content-Encoding would see a binary that is none.
func compressible(mediaType string) bool {
	t, _, _ := strings.Cut(strings.ToLower(mediaType), ";")
	t = strings.TrimSpace(t)
	switch t {
	case "application/json", "application/xml", "application/yaml", "application/javascript", "application/x-ndjson", "application/wasm":
		return true
	}
	return strings.HasPrefix(t, "text/") || strings.HasSuffix(t, "+json") || strings.HasSuffix(t, "+xml")
}
