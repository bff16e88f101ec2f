package identity

import (
	"crypto/rsa"
	"crypto/x509"
	"embed"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// Certificates are the certificates by which EC2's signatures are known, by
// region. A region may have several: one for each form of signature, and old
// and new ones side by side. A key of 2048 bits or more is good for both forms,
// a shorter one for Proof.Signature only.
type Certificates map[string][]*x509.Certificate

// One file for each region. A file says where its certificates are published
// and which copies of them, made by others at other times, were compared.
//
//go:embed certificates/*.pem
var files embed.FS

var published = sync.OnceValue(func() Certificates {
	list, err := files.ReadDir("certificates")
	if err != nil {
		panic(err) // the directory is part of the program
	}
	all := Certificates{}
	for _, f := range list {
		text, err := files.ReadFile(path.Join("certificates", f.Name()))
		if err == nil {
			err = all.Add(strings.TrimSuffix(f.Name(), ".pem"), text)
		}
		if err != nil {
			panic(err) // likewise, and a test reads them all
		}
	}
	return all
})

// Published returns the certificates that AWS publishes, of all regions known
// when this program was made. The result is the caller's, to Add to.
func Published() Certificates {
	all := maps.Clone(published())
	for region, list := range all {
		all[region] = slices.Clip(list)
	}
	return all
}

// Add adds the certificates in a PEM text to a region: those of a region that
// is new, the next ones of a region whose are about to expire, or those of an
// imitation of EC2. Text around the certificates is passed over. If there is an
// error, none is added.
func (c Certificates) Add(region string, text []byte) error {
	if !regionName.MatchString(region) {
		return fmt.Errorf("instance identity: %q is not the name of a region, such as us-east-1", region)
	}
	var added []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		certificate, err := parseCertificate(block)
		if err != nil {
			return fmt.Errorf("instance identity: certificate %d of region %s: %w", len(added)+1, region, err)
		}
		added = append(added, certificate)
	}
	if added == nil {
		return fmt.Errorf("instance identity: region %s: there is no certificate in the text; it begins with -----BEGIN CERTIFICATE-----", region)
	}
	c[region] = append(c[region], added...)
	return nil
}

const minBits = 1024

func parseCertificate(block *pem.Block) (*x509.Certificate, error) {
	if block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("what the text has there is not a certificate but: %s", block.Type)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if certificate.PublicKeyAlgorithm == x509.DSA {
		return nil, errors.New("this is the DSA certificate; the ones titled RSA and RSA-2048 are needed")
	}
	key, ok := certificate.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("its key is %v and should be RSA", certificate.PublicKeyAlgorithm)
	}
	if key.N.BitLen() < minBits {
		return nil, fmt.Errorf("its key has %d bits and should have %d at least", key.N.BitLen(), minBits)
	}
	return certificate, nil
}

// Expiring says which certificates expire before a time, one sentence each,
// ordered by region, and so when an operator has to add others.
func (c Certificates) Expiring(before time.Time) []string {
	var out []string
	for _, region := range slices.Sorted(maps.Keys(c)) {
		for _, certificate := range c[region] {
			if certificate.NotAfter.Before(before) {
				out = append(out, fmt.Sprintf("the %d-bit certificate %X of region %s expires on %s",
					certificate.PublicKey.(*rsa.PublicKey).N.BitLen(), certificate.SerialNumber, region, certificate.NotAfter.Format(time.DateOnly)))
			}
		}
	}
	return out
}
