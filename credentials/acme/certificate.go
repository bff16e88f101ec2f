package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A public is what tells a version.
type public struct {
	Serial      string         `json:"serial"`      // hexadecimal
	Fingerprint string         `json:"fingerprint"` // SHA-256 of the certificate
	Issuer      string         `json:"issuer"`
	Names       []string       `json:"names"`
	NotBefore   timestamp.Time `json:"notBefore"`
	NotAfter    timestamp.Time `json:"notAfter"`
}

// A secret is what consumers get, each piece as programs want it in a file.
type secret struct {
	Certificate string `json:"certificate"` // alone
	Chain       string `json:"chain"`       // those of the issuers
	FullChain   string `json:"fullChain"`   // both
	PrivateKey  string `json:"privateKey"`
	Bundle      string `json:"bundle"` // the key and both, so that one file is replaced at once
}

// describe makes a version of a certificate and its key.
func describe(chain [][]byte, key crypto.Signer) (m credentials.Minted, err error) {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return m, credentials.Refused("the certificate that was issued cannot be read: %w", err)
	}
	if k, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(key.Public()) {
		return m, credentials.Refused("the certificate that was issued is for another key")
	}
	var texts []string
	for _, der := range chain {
		texts = append(texts, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return m, err
	}
	s := secret{Certificate: texts[0], Chain: strings.Join(texts[1:], ""), FullChain: strings.Join(texts, ""),
		PrivateKey: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))}
	s.Bundle = s.PrivateKey + s.FullChain
	sum := sha256.Sum256(leaf.Raw)
	if m.Public, err = json.Marshal(public{
		Serial: leaf.SerialNumber.Text(16), Fingerprint: hex.EncodeToString(sum[:]), Issuer: leaf.Issuer.String(), Names: leaf.DNSNames,
		NotBefore: timestamp.Of(leaf.NotBefore), NotAfter: timestamp.Of(leaf.NotAfter),
	}); err == nil {
		m.Secret, err = json.Marshal(s)
	}
	return m, err
}

// pair is the certificate itself and its key, or nil if there is none.
func (s secret) pair() (*x509.Certificate, crypto.Signer, error) {
	if s.Certificate == "" {
		return nil, nil, nil
	}
	pair, err := tls.X509KeyPair([]byte(s.Certificate), []byte(s.PrivateKey))
	if err != nil {
		return nil, nil, credentials.Refused("the secret cannot be read")
	}
	return pair.Leaf, pair.PrivateKey.(crypto.Signer), nil
}

// Prove implements credentials.Kind: the certificate is served and connected to, as
// a server and a client of it would, and looked for in the list of those that the
// authority has revoked.
func (k *Kind) Prove(ctx context.Context, v credentials.Version) error {
	s, err := parse(v.Settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	var held secret
	if err := json.Unmarshal(v.Secret, &held); err != nil {
		return credentials.Refused("the secret cannot be read")
	}
	pair, err := tls.X509KeyPair([]byte(held.FullChain), []byte(held.PrivateKey))
	if err != nil {
		return credentials.Refused("the certificate and its key do not belong together")
	}
	now := time.Now()
	switch {
	case now.Before(pair.Leaf.NotBefore):
		return fmt.Errorf("the certificate is valid from %s; do the clocks differ?", pair.Leaf.NotBefore.UTC().Format(time.RFC3339))
	case now.After(pair.Leaf.NotAfter):
		return credentials.Refused("the certificate has expired at %s", pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	case !equal(pair.Leaf.DNSNames, s.Names):
		return credentials.Refused("the certificate is for %s, and should be for %s", strings.Join(pair.Leaf.DNSNames, ", "), strings.Join(s.Names, ", "))
	}
	roots, err := s.trusted()
	if err != nil {
		return err
	}
	for _, name := range s.Names {
		if err := pair.Leaf.VerifyHostname(example(name)); err != nil {
			return credentials.Refused("%w", err)
		}
	}
	if err := shake(ctx, pair, roots, example(s.Names[0])); err != nil {
		return fmt.Errorf("connecting to a server with the certificate: %w", err)
	}
	if len(pair.Certificate) < 2 {
		return nil
	}
	issuer, err := x509.ParseCertificate(pair.Certificate[1])
	if err != nil {
		return credentials.Refused("the certificate of the issuer cannot be read: %w", err)
	}
	return k.revoked(ctx, s, pair.Leaf, issuer)
}

// shake has a server with the certificate, and a client that connects to it.
func shake(ctx context.Context, pair tls.Certificate, roots *x509.CertPool, name string) error {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	server := tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true})
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.HandshakeContext(ctx)
		theirs.Close()
	}()
	err := tls.Client(ours, &tls.Config{RootCAs: roots, ServerName: name}).HandshakeContext(ctx)
	ours.Close()
	<-served
	return err
}

// revoked is an error if the authority has revoked a certificate. A list that cannot
// be had now tells nothing.
func (k *Kind) revoked(ctx context.Context, s parsed, leaf, issuer *x509.Certificate) error {
	for _, url := range leaf.CRLDistributionPoints {
		list, err := k.crl(ctx, s, url)
		if err == nil {
			err = list.CheckSignatureFrom(issuer)
		}
		if err != nil {
			k.log.Warn("the list of revoked certificates could not be had", "url", url, "err", err)
			continue
		}
		i := slices.IndexFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(leaf.SerialNumber) == 0 })
		if i >= 0 {
			e := list.RevokedCertificateEntries[i]
			return credentials.Refused("the certificate was revoked at %s, for reason %d", e.RevocationTime.UTC().Format(time.RFC3339), e.ReasonCode)
		}
	}
	return nil
}

func (k *Kind) crl(ctx context.Context, s parsed, url string) (*x509.RevocationList, error) {
	reach, err := k.reach(s)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := reach.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", res.Status)
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(text); block != nil && bytes.HasPrefix(text, []byte("-----BEGIN")) {
		text = block.Bytes
	}
	if len(text) == 0 {
		return nil, errors.New("the answer is empty")
	}
	return x509.ParseRevocationList(text)
}
