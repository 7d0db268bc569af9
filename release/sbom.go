package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// module is one that is in a binary.
type module struct {
	path, version, sum string
	// texts are its licence and notices, by file name.
	texts []file
	// licence is the SPDX identifier, empty if it is none of those known here.
	licence string
}

// modulesOf reads from a binary which modules it is made of, Go's own library first, and
// finds their licences. root is a folder of the module that it was built from.
func modulesOf(ctx context.Context, path, root string) ([]module, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, err
	}
	goroot, err := output(ctx, root, nil, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	std := module{path: "std", version: strings.TrimPrefix(info.GoVersion, "go")}
	if err := std.read(goroot); err != nil {
		// Some distributions keep the licence elsewhere.
		return nil, fmt.Errorf("the licence of Go: %w", err)
	}
	out := []module{std}
	for _, d := range info.Deps {
		if d.Replace != nil {
			return nil, fmt.Errorf("%s is replaced by %s: a release is made of published modules", d.Path, d.Replace.Path)
		}
		dir, err := output(ctx, root, nil, "go", "list", "-m", "-f", "{{.Dir}}", d.Path)
		if err != nil {
			return nil, err
		}
		m := module{path: d.Path, version: d.Version, sum: d.Sum}
		if err := m.read(dir); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

var legal = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|copyright)`)

// read finds the licence in a module's folder.
func (m *module) read(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !legal.MatchString(e.Name()) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		m.texts = append(m.texts, file{name: e.Name(), data: b})
		if m.licence == "" {
			m.licence = spdx(string(b))
		}
	}
	if len(m.texts) == 0 {
		return fmt.Errorf("%s has no licence in %s", m.path, dir)
	}
	return nil
}

// spdx names a licence by what only its text has.
func spdx(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	switch {
	case strings.Contains(text, "Apache License Version 2.0"):
		return "Apache-2.0"
	case strings.Contains(text, "Permission is hereby granted, free of charge"):
		return "MIT"
	case strings.Contains(text, "Redistribution and use in source and binary forms") && strings.Contains(text, "either the name of"):
		return "BSD-3-Clause"
	case strings.Contains(text, "Redistribution and use in source and binary forms"):
		return "BSD-2-Clause"
	}
	return ""
}

// thirdParty puts the licences into one text.
func thirdParty(modules []module) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("The binary sageacc contains the following modules, under these licences.\n")
	for _, m := range modules {
		name := m.path + " " + m.version
		if m.path == "std" {
			name = "Go " + m.version + ", its standard library and runtime"
		}
		for _, t := range m.texts {
			fmt.Fprintf(&b, "\n%s\n%s (%s)\n%s\n\n%s\n", strings.Repeat("=", 80), name, t.name, strings.Repeat("=", 80), bytes.TrimSpace(t.data))
		}
	}
	return b.Bytes(), nil
}

// CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/, as far as it is used.
type (
	cdxBOM struct {
		Schema       string          `json:"$schema"`
		Format       string          `json:"bomFormat"`
		Spec         string          `json:"specVersion"`
		Serial       string          `json:"serialNumber"`
		Version      int             `json:"version"`
		Metadata     cdxMetadata     `json:"metadata"`
		Components   []cdxComponent  `json:"components"`
		Dependencies []cdxDependency `json:"dependencies"`
	}
	cdxMetadata struct {
		Timestamp  string        `json:"timestamp"`
		Tools      cdxTools      `json:"tools"`
		Component  cdxComponent  `json:"component"`
		Properties []cdxProperty `json:"properties"`
	}
	cdxTools struct {
		Components []cdxComponent `json:"components"`
	}
	cdxComponent struct {
		Type       string        `json:"type"`
		Ref        string        `json:"bom-ref,omitempty"`
		Name       string        `json:"name"`
		Version    string        `json:"version,omitempty"`
		Scope      string        `json:"scope,omitempty"`
		Hashes     []cdxHash     `json:"hashes,omitempty"`
		Licences   []cdxLicences `json:"licenses,omitempty"`
		PURL       string        `json:"purl,omitempty"`
		Properties []cdxProperty `json:"properties,omitempty"`
	}
	cdxHash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	cdxLicences struct {
		Licence cdxLicence `json:"license"`
	}
	cdxLicence struct {
		ID string `json:"id"`
	}
	cdxProperty struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	cdxDependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn,omitempty"`
	}
)

// sbom is the bill of materials of a platform's binary, in CycloneDX 1.6. The sums of modules are
// those of go.sum, which are not of a file, and so are properties.
func sbom(version, platform string, at time.Time, binary []byte, modules []module) ([]byte, error) {
	sum := sha256.Sum256(binary)
	purl := func(path, version string) string { return "pkg:golang/" + path + "@" + version }
	goos, goarch, _ := strings.Cut(platform, "/")
	self := purl("github.com/sageacc/sageacc", version) + "?goos=" + goos + "&goarch=" + goarch + "#cmd/sageacc"
	// A version 8 UUID of the binary, so that the same binary has the same.
	id := slices.Clone(sum[:16])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	b := cdxBOM{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", Spec: "1.6", Version: 1,
		Serial: fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
		Metadata: cdxMetadata{
			Timestamp: at.UTC().Format(time.RFC3339),
			Tools:     cdxTools{[]cdxComponent{{Type: "application", Name: "github.com/sageacc/sageacc/release", Version: version}}},
			Component: cdxComponent{
				Type: "application", Ref: self, Name: "sageacc", Version: version, PURL: self,
				Hashes: []cdxHash{{"SHA-256", fmt.Sprintf("%x", sum)}}, Licences: []cdxLicences{{cdxLicence{"Apache-2.0"}}},
			},
			Properties: []cdxProperty{{"go:compiler", runtime.Compiler}, {"go:cgo", "0"}, {"go:goos", goos}, {"go:goarch", goarch}},
		},
		Components: []cdxComponent{},
	}
	own := cdxDependency{Ref: self}
	for _, m := range modules {
		ref := purl(m.path, m.version)
		c := cdxComponent{Type: "library", Ref: ref, Name: m.path, Version: m.version, Scope: "required", PURL: ref}
		if m.licence != "" {
			c.Licences = []cdxLicences{{cdxLicence{m.licence}}}
		}
		if m.sum != "" {
			c.Properties = []cdxProperty{{"go:sum", m.sum}}
		}
		b.Components = append(b.Components, c)
		b.Dependencies = append(b.Dependencies, cdxDependency{Ref: ref})
		own.DependsOn = append(own.DependsOn, ref)
	}
	b.Dependencies = append(b.Dependencies, own)
	out, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(out, '\n'), nil
}
