// Package jsone renders JSON-e templates.
package jsone
