// Package notebooks holds three Jupyter notebooks in Go, for the GoNB kernel, and
// the tests that keep them true: their cells are compiled against the packages
// of this checkout, run, and compared with the outputs that are kept. See
// README.md. The notebooks are a module of their own, so that nothing of what
// they need is needed by sageacc.
package notebooks
