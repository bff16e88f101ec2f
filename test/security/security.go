// Package security attacks the platform from outside, as it is served: one
// process with all services, on every database.
//
//   - scopes_test.go walks every method that the served references name, and
//     those that they leave out, with scopes that are none, wrong, almost enough
//     and exactly enough.
//   - secrets_test.go plants secrets wherever a secret can go, drives the
//     platform through successes and failures, and searches for them in all that
//     it says and keeps (looks_test.go).
//   - limits_test.go sends what is too large, too deep, too many, too slow,
//     forged or said twice.
//   - sources_test.go looks through the source for comparisons of secrets that
//     take as long as they are right.
package security
