package seal

import "testing"

func BenchmarkSeal(b *testing.B) {
	ks, _ := NewKeys(NewKey(), NewKey())
	text := []byte("an-access-token-of-forty-four-characters-000")
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			ks.Seal(text, "auth_token/team/ci/x")
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	ks, _ := NewKeys(NewKey(), NewKey())
	sealed := ks.Seal([]byte("an-access-token-of-forty-four-characters-000"), "auth_token/team/ci/x")
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			ks.Open(sealed, "auth_token/team/ci/x")
		}
	})
}
