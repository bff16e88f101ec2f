package main

import "runtime/debug"

// version is set for releases, with -ldflags '-X main.version=1.2.3'.
var version string

// A buildInfo tells which build this is.
type buildInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Source  string `json:"source"`
	Build   string `json:"build"`
}

// release names the build in Sentry.
func (b buildInfo) release() string {
	if b.Version == "dev" && b.Commit != "" {
		return "taskfleet@" + b.Commit
	}
	return "taskfleet@" + b.Version
}

// buildVersion is what the Go toolchain recorded about this binary.
func buildVersion() buildInfo {
	v := buildInfo{Version: "dev", Source: "https://github.com/taskfleet/taskfleet"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	v.Build = info.GoVersion
	if version != "" {
		v.Version = version
	}
	return v
}
