// Command release builds what a release consists of: for every platform an archive of
// the static binary with man pages, completions and the licences of all that is in it,
// a CycloneDX SBOM of the binary, and the SHA-256 sums of all files. The same commit and
// the same Go give the same bytes, wherever and whenever they are built; -verify builds
// everything a second time elsewhere and says whether that holds.
//
//	go run ./release -o dist
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// platforms are those that are released, GOOS/GOARCH.
var platforms = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64"}

// release is what is built.
type release struct {
	// root is the folder of the sources, dir where files go.
	root, dir string
	// version, commit and date (of the commit, RFC 3339) are written into the binary.
	version, commit string
	date            time.Time
	platforms       []string
	// cache is the build cache; empty for the user's own.
	cache string
	// plain builds as go build does by itself, with the names of the sources' folders in the
	// binary: a test need not compile what the build cache has.
	plain bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("release", flag.ContinueOnError)
	out := fs.String("o", "dist", "folder to write to, new or empty")
	version := fs.String("version", "", "version, as v1.2.3; without it that of the tag of the commit, or one made of the commit")
	commit := fs.String("commit", "", "commit, if the sources are no git checkout")
	date := fs.String("date", "", "time of the commit in RFC 3339, if the sources are no git checkout")
	only := fs.String("platforms", strings.Join(platforms, ","), "GOOS/GOARCH to build for, comma-separated")
	verify := fs.Bool("verify", false, "build everything once more, from an archive of the commit in another folder with an empty cache, and compare")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	root, err := output(ctx, ".", nil, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	r := &release{root: root, dir: *out, version: *version, commit: *commit, platforms: strings.Split(*only, ",")}
	if *date != "" {
		if r.date, err = time.Parse(time.RFC3339, *date); err != nil {
			return fmt.Errorf("-date: %w", err)
		}
	}
	if err := r.identify(ctx); err != nil {
		return err
	}
	if err := r.build(ctx); err != nil {
		return err
	}
	if !*verify {
		return nil
	}
	return r.verify(ctx)
}

// identify asks git for what was not given.
func (r *release) identify(ctx context.Context) error {
	if r.version != "" && r.commit != "" && !r.date.IsZero() {
		return nil
	}
	git := func(args ...string) (string, error) { return output(ctx, r.root, nil, "git", args...) }
	changed, err := git("status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return fmt.Errorf("no git checkout, and not all of -version, -commit and -date are given: %w", err)
	}
	if changed != "" {
		return fmt.Errorf("the sources are not those of a commit:\n%s", changed)
	}
	if r.commit == "" {
		if r.commit, err = git("rev-parse", "HEAD"); err != nil {
			return err
		}
	}
	if r.date.IsZero() {
		s, err := git("show", "-s", "--format=%cI", r.commit)
		if err != nil {
			return err
		}
		if r.date, err = time.Parse(time.RFC3339, s); err != nil {
			return err
		}
	}
	r.date = r.date.UTC()
	if r.version == "" {
		if r.version, err = git("describe", "--tags", "--exact-match", "--match", "v[0-9]*", r.commit); err != nil {
			// As the go command names a commit before any release.
			r.version = "v0.0.0-" + r.date.Format("20060102150405") + "-" + r.commit[:min(12, len(r.commit))]
		}
	}
	return nil
}

// build makes all files.
func (r *release) build(ctx context.Context) error {
	if err := os.MkdirAll(r.dir, 0o777); err != nil {
		return err
	}
	if old, err := os.ReadDir(r.dir); err != nil {
		return err
	} else if len(old) > 0 {
		return fmt.Errorf("%s is not empty", r.dir)
	}
	for _, p := range r.platforms {
		if goos, goarch, _ := strings.Cut(p, "/"); goos == "" || goarch == "" {
			return fmt.Errorf("platform %q is not GOOS/GOARCH", p)
		}
	}
	tmp, err := os.MkdirTemp("", "sageacc-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	// This machine's own binary writes the man pages, and says that it is what it should be.
	own, err := r.binary(ctx, runtime.GOOS+"/"+runtime.GOARCH, tmp)
	if err != nil {
		return err
	}
	said, err := output(ctx, tmp, nil, own, "--version")
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("sageacc %s (commit %.12s, %s) %s", r.version, r.commit, r.date.Format(time.RFC3339), runtime.Version()); !strings.HasPrefix(said, want) {
		return fmt.Errorf("the binary says it is %q, want %q", said, want)
	}
	common, err := r.texts(ctx, own, tmp)
	if err != nil {
		return err
	}
	for _, p := range r.platforms {
		if err := r.pack(ctx, p, tmp, common); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return sums(r.dir)
}

// name is that of a platform's files, without the ending.
func (r *release) name(platform string) string {
	return "sageacc_" + strings.TrimPrefix(r.version, "v") + "_" + strings.ReplaceAll(platform, "/", "_")
}

// binary returns the path of a platform's binary in a folder, where it builds it once.
func (r *release) binary(ctx context.Context, platform, tmp string) (string, error) {
	exe := "sageacc"
	if strings.HasPrefix(platform, "windows/") {
		exe += ".exe"
	}
	path := filepath.Join(tmp, "bin", platform, exe)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return "", err
	}
	return path, r.compile(ctx, platform, path)
}

// compile builds the binary of a platform.
func (r *release) compile(ctx context.Context, platform, to string) error {
	goos, goarch, _ := strings.Cut(platform, "/")
	const at = "github.com/sageacc/sageacc/internal/version."
	flags := fmt.Sprintf("-s -w -buildid= -X %sversion=%s -X %scommit=%s -X %sdate=%s", at, r.version, at, r.commit, at, r.date.Format(time.RFC3339))
	env := []string{"CGO_ENABLED=0", "GOOS=" + goos, "GOARCH=" + goarch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=-buildvcs=false", "GOEXPERIMENT="}
	if r.cache != "" {
		env = append(env, "GOCACHE="+r.cache)
	}
	if r.plain {
		env = nil
	}
	// -buildvcs=false, because an archive of the sources has no repository.
	_, err := output(ctx, r.root, env, "go", "build", fmt.Sprintf("-trimpath=%v", !r.plain), "-buildvcs=false", "-ldflags", flags, "-o", to, "./cmd/sageacc")
	return err
}

// texts are the files that the archives of all platforms have.
func (r *release) texts(ctx context.Context, own, tmp string) ([]file, error) {
	var out []file
	for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md"} {
		b, err := os.ReadFile(filepath.Join(r.root, name))
		if err != nil {
			return nil, err
		}
		out = append(out, file{name: name, data: b})
	}
	man := filepath.Join(tmp, "man")
	if _, err := output(ctx, tmp, nil, own, "man", man); err != nil {
		return nil, err
	}
	pages, err := filepath.Glob(filepath.Join(man, "*.1"))
	if err != nil {
		return nil, err
	}
	slices.Sort(pages)
	for _, p := range pages {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		out = append(out, file{name: "man/man1/" + filepath.Base(p), data: b})
	}
	for _, s := range []struct{ shell, name string }{{"bash", "sageacc.bash"}, {"zsh", "_sageacc"}, {"fish", "sageacc.fish"}, {"powershell", "sageacc.ps1"}} {
		text, err := output(ctx, tmp, nil, own, "completion", s.shell)
		if err != nil {
			return nil, err
		}
		out = append(out, file{name: "completions/" + s.name, data: []byte(text + "\n")})
	}
	return out, nil
}

// pack makes the archive and the SBOM of a platform.
func (r *release) pack(ctx context.Context, platform, tmp string, common []file) error {
	path, err := r.binary(ctx, platform, tmp)
	if err != nil {
		return err
	}
	exe := filepath.Base(path)
	binary, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	modules, err := modulesOf(ctx, path, r.root)
	if err != nil {
		return err
	}
	licences, err := thirdParty(modules)
	if err != nil {
		return err
	}
	files := append([]file{{name: exe, data: binary, mode: 0o755}, {name: "THIRD-PARTY.txt", data: licences}}, common...)
	name := r.name(platform)
	var archive []byte
	if exe == "sageacc" {
		archive, err = tarGz(name, files, r.date)
		err = errors.Join(err, os.WriteFile(filepath.Join(r.dir, name+".tar.gz"), archive, 0o644))
	} else {
		archive, err = zipped(name, files, r.date)
		err = errors.Join(err, os.WriteFile(filepath.Join(r.dir, name+".zip"), archive, 0o644))
	}
	if err != nil {
		return err
	}
	bom, err := sbom(r.version, platform, r.date, binary, modules)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.dir, name+".cdx.json"), bom, 0o644); err != nil {
		return err
	}
	fmt.Printf("%s: %.1f MB, binary %.1f MB, %d modules\n", name, float64(len(archive))/1e6, float64(len(binary))/1e6, len(modules))
	return nil
}

// verify builds the release again and compares the sums.
func (r *release) verify(ctx context.Context) error {
	tmp, err := os.MkdirTemp("", "sageacc-again-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	again := *r
	again.root, again.dir, again.cache = filepath.Join(tmp, "elsewhere", "sources"), filepath.Join(tmp, "dist"), filepath.Join(tmp, "cache")
	if err := os.MkdirAll(again.root, 0o777); err != nil {
		return err
	}
	archive := filepath.Join(tmp, "sources.tar")
	if _, err := output(ctx, r.root, nil, "git", "archive", "-o", archive, r.commit); err != nil {
		return err
	}
	if _, err := output(ctx, again.root, nil, "tar", "-xf", archive); err != nil {
		return err
	}
	if err := again.build(ctx); err != nil {
		return err
	}
	a, err := os.ReadFile(filepath.Join(r.dir, sumsName))
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(again.dir, sumsName))
	if err != nil {
		return err
	}
	if string(a) != string(b) {
		return fmt.Errorf("built twice, and not the same:\n%sand\n%s", a, b)
	}
	fmt.Println("built twice, in two folders: the same bytes")
	return nil
}

// output runs a command and returns what it prints, without the last line's end.
func output(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), env...)
	var errs strings.Builder
	c.Stderr = &errs
	b, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
