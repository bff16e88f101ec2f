package awsfake

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/smallstep/pkcs7"
)

// Identity is what the metadata service serves an instance under
// dynamic/instance-identity/. Document is the exact bytes that are signed.
type Identity struct {
	Document  []byte // document: JSON
	Signature string // signature: base64 of RSA PKCS #1 v1.5 over SHA-256, wrapped at 64 characters
	RSA2048   string // rsa2048: base64 of PKCS #7 SignedData with the document in it, SHA-256, without certificates, wrapped at 64 characters
}

// signer is a region's key.
type signer struct {
	key         *rsa.PrivateKey
	certificate *x509.Certificate
}

// document has the fields of AWS's, in its order.
type document struct {
	AccountID               string   `json:"accountId"`
	Architecture            string   `json:"architecture"`
	AvailabilityZone        string   `json:"availabilityZone"`
	BillingProducts         []string `json:"billingProducts"`
	DevpayProductCodes      []string `json:"devpayProductCodes"`
	MarketplaceProductCodes []string `json:"marketplaceProductCodes"`
	ImageID                 string   `json:"imageId"`
	InstanceID              string   `json:"instanceId"`
	InstanceType            string   `json:"instanceType"`
	KernelID                *string  `json:"kernelId"`
	PendingTime             string   `json:"pendingTime"`
	PrivateIP               string   `json:"privateIp"`
	RamdiskID               *string  `json:"ramdiskId"`
	Region                  string   `json:"region"`
	Version                 string   `json:"version"`
}

// Identity of an instance that can still be described, signed with its region's
// key. In AWS the two signatures have two keys; here they share one.
func (c *Cloud) Identity(instanceID string) (Identity, error) {
	c.enter()
	i := c.instances[instanceID]
	var d document
	if i != nil {
		d = document{
			AccountID: i.region.account.id, Architecture: string(i.launch.image.architecture), AvailabilityZone: i.subnet.zone, ImageID: i.launch.image.id,
			InstanceID: i.id, InstanceType: i.market.Type, PendingTime: i.requested.UTC().Format("2006-01-02T15:04:05Z"), PrivateIP: i.address, Region: i.region.name, Version: "2017-09-30",
		}
	}
	c.leave()
	if i == nil {
		return Identity{}, fmt.Errorf("no instance %q", instanceID)
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return Identity{}, err
	}
	return c.Sign(d.Region, text)
}

// Sign signs any document with a region's key, for tests of forged ones.
func (c *Cloud) Sign(region string, document []byte) (Identity, error) {
	s, err := c.signer(region)
	if err != nil {
		return Identity{}, err
	}
	sum := sha256.Sum256(document)
	plain, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	if err != nil {
		return Identity{}, fmt.Errorf("signing an identity document: %w", err)
	}
	data, err := pkcs7.NewSignedData(document)
	if err != nil {
		return Identity{}, fmt.Errorf("signing an identity document: %w", err)
	}
	data.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := data.AddSigner(s.certificate, s.key, pkcs7.SignerInfoConfig{}); err != nil {
		return Identity{}, fmt.Errorf("signing an identity document: %w", err)
	}
	sealed, err := data.Finish()
	if err == nil {
		sealed, err = withoutCertificates(sealed)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("signing an identity document: %w", err)
	}
	return Identity{Document: document, Signature: wrapped(plain), RSA2048: wrapped(sealed)}, nil
}

// withoutCertificates drops the certificates (field [0]) out of a SignedData:
// who verifies AWS's documents must have theirs already.
func withoutCertificates(sealed []byte) ([]byte, error) {
	var outer struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(sealed, &outer); err != nil {
		return nil, err
	}
	var fields, kept []asn1.RawValue
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &fields); err != nil {
		return nil, err
	}
	for _, f := range fields {
		if f.Class != asn1.ClassContextSpecific {
			kept = append(kept, f)
		}
	}
	inner, err := asn1.Marshal(kept)
	if err != nil {
		return nil, err
	}
	outer.Content = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner}
	return asn1.Marshal(outer)
}

// Certificate is the self-signed certificate with which a region's documents
// are verified.
func (c *Cloud) Certificate(region string) (*x509.Certificate, error) {
	s, err := c.signer(region)
	if err != nil {
		return nil, err
	}
	return s.certificate, nil
}

// signer makes a region's key when it is first asked for.
func (c *Cloud) signer(region string) (*signer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.signers[region]; s != nil {
		return s, nil
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("making the key of %s: %w", region, err)
	}
	// AWS's certificates are not X.509 version 1 any more, and last for long.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(c.signers) + 1)),
		Subject:      pkix.Name{Country: []string{"US"}, Province: []string{"Washington State"}, Locality: []string{"Seattle"}, Organization: []string{"Imitation of AWS"}, CommonName: region},
		NotBefore:    c.epoch.Add(-24 * time.Hour), NotAfter: c.epoch.AddDate(100, 0, 0), BasicConstraintsValid: true, IsCA: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of %s: %w", region, err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of %s: %w", region, err)
	}
	c.signers[region] = &signer{key, certificate}
	return c.signers[region], nil
}

// wrapped is base64 in lines of 64 characters.
func wrapped(raw []byte) string {
	text := base64.StdEncoding.EncodeToString(raw)
	var b strings.Builder
	for len(text) > 64 {
		b.WriteString(text[:64])
		b.WriteByte('\n')
		text = text[64:]
	}
	b.WriteString(text)
	return b.String()
}
