#!/usr/bin/env bash
# Builds what a release consists of into a folder: an archive and an SBOM for each
# platform, and the sums. Needs Go and, to know version, commit and date, git.
#
#	release/build.sh                 # into dist/
#	release/build.sh -o dist -verify # and once more elsewhere, to compare
set -euo pipefail
cd "$(dirname "$0")/.."
exec go run ./release "$@"
