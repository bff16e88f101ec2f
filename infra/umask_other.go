//go:build !unix

package infra

// PrivateFiles does nothing: a user's files are the user's here.
func PrivateFiles() {}
