package main

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

// billVersion is that of CycloneDX which the tools of most people read.
const billVersion = cyclonedx.SpecVersion1_6

// sumProperty has what go.sum says of a module: a hash of the hashes of its files, which is none of the hashes of CycloneDX.
const sumProperty = "taskfleet:go.sum"

// billOfMaterials lists what a binary was made of, as it says itself: the modules that are linked into it, Go's library, and the
// certificates beside it. Licences are not recorded in a binary, and are not in the bill.
func billOfMaterials(b binary, version string, created time.Time, roots string) ([]byte, error) {
	program := component(cyclonedx.ComponentTypeApplication, b.info.Main.Path, version)
	program.Hashes = &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: b.sha256}}
	program.Licenses = &cyclonedx.Licenses{{License: &cyclonedx.License{ID: "Apache-2.0"}}}
	program.ExternalReferences = &[]cyclonedx.ExternalReference{{Type: cyclonedx.ERTypeVCS, URL: sources, Comment: b.setting("vcs.revision")}}
	program.Properties = &[]cyclonedx.Property{{Name: "taskfleet:platform", Value: b.platform.String()}}

	parts := []cyclonedx.Component{component(cyclonedx.ComponentTypeLibrary, "std", goVersion(b.info.GoVersion))}
	for _, m := range b.info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := component(cyclonedx.ComponentTypeLibrary, m.Path, m.Version)
		if m.Sum != "" {
			c.Properties = &[]cyclonedx.Property{{Name: sumProperty, Value: m.Sum}}
		}
		parts = append(parts, c)
	}
	if roots != "" {
		c := component(cyclonedx.ComponentTypeData, rootsModule, rootsVersion)
		c.Properties = &[]cyclonedx.Property{{Name: sumProperty, Value: rootsSum}}
		parts = append(parts, c)
	}
	slices.SortFunc(parts, func(a, b cyclonedx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })
	needs := []string{}
	for _, c := range parts {
		needs = append(needs, c.BOMRef)
	}

	list := cyclonedx.NewBOM()
	// The same binary has the same bill, so its number is made from the binary.
	list.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, []byte(sources+"#"+b.sha256)).URN()
	list.Metadata = &cyclonedx.Metadata{Timestamp: created.Format(time.RFC3339), Component: &program}
	list.Components = &parts
	list.Dependencies = &[]cyclonedx.Dependency{{Ref: program.BOMRef, Dependencies: &needs}}
	var text bytes.Buffer
	if err := cyclonedx.NewBOMEncoder(&text, cyclonedx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(list, billVersion); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

func component(kind cyclonedx.ComponentType, path, version string) cyclonedx.Component {
	purl := "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
	return cyclonedx.Component{BOMRef: purl, Type: kind, Name: path, Version: version, PackageURL: purl}
}

// goVersion is the version of Go's library: 1.26.3 of go1.26.3.
func goVersion(toolchain string) string {
	version, _, _ := strings.Cut(strings.TrimPrefix(toolchain, "go"), " ")
	return version
}
