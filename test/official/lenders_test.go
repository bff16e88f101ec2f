package official

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The services that the platform gets credentials from for others, beside AWS, which moto stands for: Azure, Google Cloud
// and GitHub, as far as each lends something. They take whatever the platform shows to prove itself: what that must be is
// looked at where it is made.

// lenders adds them to what the outside serves.
func lenders(routes *http.ServeMux) {
	created := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) }
	routes.HandleFunc("POST /azure/Tables", created)
	routes.HandleFunc("PUT /azure/{container}", created)
	routes.HandleFunc("GET /azure/Tables", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"value": []any{map[string]string{"TableName": "Builds"}}})
	})
	routes.HandleFunc("GET /azure/{$}", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `<EnumerationResults><Containers><Container><Name>builds</Name></Container></Containers><NextMarker/></EnumerationResults>`)
	})

	soon := func() string { return time.Now().Add(time.Hour).UTC().Format(time.RFC3339) }
	routes.HandleFunc("POST /gcp/token", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"access_token": "the-platform's-own", "token_type": "Bearer", "expires_in": 3600})
	})
	routes.HandleFunc("POST /gcp/v1/projects/-/serviceAccounts/{account}", func(w http.ResponseWriter, r *http.Request) {
		account, _ := strings.CutSuffix(r.PathValue("account"), ":generateAccessToken")
		reply(w, http.StatusOK, map[string]string{"accessToken": "for " + account, "expireTime": soon()})
	})

	routes.HandleFunc("GET /github/{kind}/{owner}/installation", func(w http.ResponseWriter, r *http.Request) {
		if owner := r.PathValue("owner"); owner == "taskfleet" {
			reply(w, http.StatusOK, map[string]any{"id": 1, "account": map[string]string{"login": owner}})
			return
		}
		reply(w, http.StatusNotFound, map[string]string{"message": "Not Found"})
	})
	routes.HandleFunc("POST /github/app/installations/1/access_tokens", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusCreated, map[string]string{"token": "ghs_official", "expires_at": soon()})
	})
}

// lendersConfig is the part of the platform's configuration about them, to go below auth.
func lendersConfig(t *testing.T, web string) string {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	google := quoted(t, map[string]string{
		"type": "service_account", "project_id": "official", "client_email": "platform@example.com",
		"private_key": key, "private_key_id": "1", "token_uri": web + "/gcp/token",
	})
	return fmt.Sprintf(`
  azure: {accounts: {official: {key: "dGhlIGtleSBvZiBhbiBhY2NvdW50IG9mIHRoZSBvZmZpY2lhbCBzdWl0ZQ==", blobEndpoint: "%[1]s/azure", tableEndpoint: "%[1]s/azure"}}}
  gcp: {endpoint: "%[1]s/gcp", projects: {official: {key: %[2]s, serviceAccounts: [builder@example.com]}}}
  github: {endpoint: "%[1]s/github", apps: {official: {appId: "1", privateKey: %[3]s}}}
`, web, quoted(t, google), quoted(t, key))
}

// quoted is a value as JSON, which YAML takes.
func quoted(t *testing.T, v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
