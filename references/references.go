// Package references holds, generated and committed, what the services
// publish about themselves: the references of methods and exchanges and their
// JSON schemas, as a server without a root URL would serve them. The Go client
// is generated from them, and a reviewer sees in them what a change does to
// the API.
package references

//go:generate go run ./generate
