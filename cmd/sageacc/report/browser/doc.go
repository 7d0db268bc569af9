// Package browser tests report pages in a browser: Chromium or Chrome, driven through
// chromedp. It is a module of its own, so that nobody who uses sageacc downloads
// chromedp. Where there is no browser the tests are skipped, and say so.
package browser
