package identity

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
)

const document = `{
  "accountId" : "123456789012",
  "architecture" : "x86_64",
  "availabilityZone" : "us-east-1b",
  "billingProducts" : null,
  "marketplaceProductCodes" : [ "4i20ezfza3p7xx2kt2g8weu2u" ],
  "imageId" : "ami-0c7217cdde317cfec",
  "instanceId" : "i-0b02d936754a6d637",
  "instanceType" : "c7i.large",
  "pendingTime" : "2026-02-15T14:12:11Z",
  "privateIp" : "172.31.17.154",
  "region" : "us-east-1",
  "version" : "2017-09-30"
}`

// An authority signs documents as EC2 does in one region.
type authority struct {
	key         *rsa.PrivateKey
	certificate *x509.Certificate
}

func newAuthority(bits int, expires time.Time) *authority {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"Imitation of EC2"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: expires,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &authority{key, certificate}
}

var (
	east = sync.OnceValue(func() *authority { return newAuthority(2048, time.Now().Add(24*time.Hour)) })
	west = sync.OnceValue(func() *authority { return newAuthority(2048, time.Now().Add(48*time.Hour)) })
	weak = sync.OnceValue(func() *authority { return newAuthority(1024, time.Now().Add(24*time.Hour)) })
)

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// signature makes the form `signature`, broken into lines as the metadata
// service has it.
func (a *authority) signature(document string) string {
	digest := sha256.Sum256([]byte(document))
	raw, err := rsa.SignPKCS1v15(nil, a.key, crypto.SHA256, digest[:])
	if err != nil {
		panic(err)
	}
	return lines(raw)
}

// message makes the form `rsa2048`, with changes.
func (a *authority) message(document string, changes ...func(*pkcs7.SignedData)) []byte {
	sd, err := pkcs7.NewSignedData([]byte(document))
	if err != nil {
		panic(err)
	}
	sd.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := sd.AddSigner(a.certificate, a.key, pkcs7.SignerInfoConfig{}); err != nil {
		panic(err)
	}
	for _, change := range changes {
		change(sd)
	}
	der, err := sd.Finish()
	if err != nil {
		panic(err)
	}
	return der
}

func lines(raw []byte) string {
	text := base64.StdEncoding.EncodeToString(raw)
	var out strings.Builder
	for len(text) > 76 {
		out.WriteString(text[:76] + "\n")
		text = text[76:]
	}
	return out.String() + text
}

// indefinite encodes a message anew as EC2 does: what is constructed has no
// length but an end. What a signature covers, the attributes with context tag
// 0 of a signer, stays as it is.
func indefinite(der []byte, depth int) []byte {
	var out []byte
	for len(der) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			panic(err)
		}
		if v.IsCompound && depth > 0 {
			out = append(out, v.FullBytes[0], 0x80)
			out = append(out, indefinite(v.Bytes, depth-1)...)
			out = append(out, 0, 0)
		} else {
			out = append(out, v.FullBytes...)
		}
		der = rest
	}
	return out
}

func verifier(t testing.TB) Verifier {
	c := Certificates{}
	for region, list := range map[string][]*authority{"us-east-1": {weak(), east()}, "us-west-2": {west()}} {
		for _, a := range list {
			if err := c.Add(region, a.pem()); err != nil {
				t.Fatal(err)
			}
		}
	}
	return Verifier{Certificates: c}
}

func TestBothFormsProveADocument(t *testing.T) {
	message := lines(east().message(document))
	for name, p := range map[string]Proof{
		"signature":                      {Document: document, Signature: weak().signature(document)},
		"signature in one line":          {Document: document, Signature: strings.ReplaceAll(weak().signature(document), "\n", "")},
		"signature by the longer key":    {Document: document, Signature: east().signature(document)},
		"message":                        {PKCS7: message},
		"message and document":           {Document: document, PKCS7: message},
		"message, signature, document":   {Document: document, PKCS7: message, Signature: weak().signature(document)},
		"message with indefinite length": {PKCS7: lines(indefinite(east().message(document), 3))},
		"message without the document":   {Document: document, PKCS7: lines(east().message(document, (*pkcs7.SignedData).Detach))},
		"message without attributes":     {PKCS7: lines(east().message(document, direct(east())))},
	} {
		d, err := verifier(t).Verify(p)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := Document{
			AccountID: "123456789012", Architecture: "x86_64", AvailabilityZone: "us-east-1b", ImageID: "ami-0c7217cdde317cfec",
			InstanceID: "i-0b02d936754a6d637", InstanceType: "c7i.large", PrivateIP: "172.31.17.154", Region: "us-east-1",
			PendingTime: time.Date(2026, 2, 15, 14, 12, 11, 0, time.UTC),
		}
		if d != want {
			t.Errorf("%s: got %+v", name, d)
		}
	}
}

func TestTheFormsAreToldApart(t *testing.T) {
	for name, signature := range map[string]string{
		"signature": weak().signature(document),
		"message":   lines(indefinite(east().message(document), 3)),
	} {
		if _, err := verifier(t).Verify(Signed(document, signature)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p := Signed(document, strings.Repeat("A", 684)); p.PKCS7 != "" {
		t.Error("the signature of a key of 4096 bits is taken for a message")
	}
}

// direct makes a message sign its content without attributes.
func direct(a *authority) func(*pkcs7.SignedData) {
	return func(sd *pkcs7.SignedData) {
		sd.GetSignedData().SignerInfos = nil
		if err := sd.SignWithoutAttr(a.certificate, a.key, pkcs7.SignerInfoConfig{}); err != nil {
			panic(err)
		}
	}
}

func TestHostileProofsAreRefused(t *testing.T) {
	elsewhere := strings.ReplaceAll(document, "us-east-1", "us-west-2")
	unknown := strings.ReplaceAll(document, "us-east-1", "xx-south-9")
	tampered := strings.Replace(document, "123456789012", "999999999999", 1)
	message := lines(east().message(document))
	for _, c := range []struct {
		name string
		p    Proof
		want string
	}{
		{"nothing", Proof{}, "has no signature"},
		{"no signature", Proof{Document: document}, "has no signature"},
		{"no document", Proof{Signature: weak().signature(document)}, "not a JSON object"},
		{"large document", Proof{Document: document + strings.Repeat(" ", maxDocument), Signature: "AA=="}, "4096 are allowed"},
		{"large signature", Proof{Document: document, Signature: strings.Repeat("A", maxSignature+4)}, "1024 are allowed"},
		{"large message", Proof{PKCS7: strings.Repeat("A", maxPKCS7+4)}, "8192 are allowed"},
		{"signature not base64", Proof{Document: document, Signature: "*"}, "not base64"},
		{"message not base64", Proof{PKCS7: "-----BEGIN PKCS7-----"}, "not base64"},
		{"message not DER", Proof{PKCS7: "AAAA"}, "cannot be unpacked"},
		{"message without anything", Proof{PKCS7: "MAA="}, "cannot be unpacked"},
		{"nested messages", Proof{PKCS7: lines(bytes.Repeat([]byte{0x30, 0x80}, 3000))}, "cannot be unpacked"},

		{"document altered, signature", Proof{Document: tampered, Signature: weak().signature(document)}, "not EC2's"},
		{"document altered, message", Proof{Document: tampered, PKCS7: message}, "another document"},
		{"document altered within message", Proof{PKCS7: lines(bytes.Replace(east().message(document), []byte("123456789012"), []byte("999999999999"), 1))}, "digest mismatch"},
		{"document altered, message without document", Proof{Document: tampered, PKCS7: lines(east().message(document, (*pkcs7.SignedData).Detach))}, "digest mismatch"},
		{"document altered, direct message", Proof{PKCS7: lines(bytes.Replace(east().message(document, direct(east())), []byte("123456789012"), []byte("999999999999"), 1))}, "verification error"},
		{"empty signature value", Proof{PKCS7: lines(east().message(document, func(sd *pkcs7.SignedData) { sd.GetSignedData().SignerInfos[0].EncryptedDigest = nil }))}, "verification error"},

		{"other region's key, signature", Proof{Document: document, Signature: west().signature(document)}, "not EC2's"},
		{"other region's key, message", Proof{PKCS7: lines(west().message(document))}, "No certificate for signer"},
		{"this region's key, other region named", Proof{Document: elsewhere, Signature: weak().signature(elsewhere)}, "not EC2's"},
		{"short key, message", Proof{PKCS7: lines(weak().message(document))}, "No certificate for signer"},
		{"unknown region", Proof{Document: unknown, Signature: weak().signature(unknown)}, "identityCertificates"},
		{"region that is none", Proof{Document: strings.Replace(document, `"us-east-1"`, `"../x"`, 1), Signature: "AA=="}, "not the name of a region"},
		{"good message, bad signature", Proof{PKCS7: message, Signature: west().signature(document)}, "not EC2's"},
		{"bad message, good signature", Proof{Document: document, PKCS7: lines(west().message(document)), Signature: weak().signature(document)}, "No certificate for signer"},

		// The message brings the certificate it is signed with, of the right name and number.
		{"certificate in message", Proof{PKCS7: lines(impostor().message(document))}, "verification error"},
		{"two signers", Proof{PKCS7: lines(east().message(document, func(sd *pkcs7.SignedData) {
			if err := sd.AddSigner(west().certificate, west().key, pkcs7.SignerInfoConfig{}); err != nil {
				t.Fatal(err)
			}
		}))}, "2 signers"},
		{"no signer", Proof{PKCS7: lines(east().message(document, func(sd *pkcs7.SignedData) { sd.GetSignedData().SignerInfos = nil }))}, "0 signers"},
		{"attributes as content", Proof{PKCS7: lines(attributesAsContent(t))}, "not UTF-8"},
		{"content of another type", Proof{PKCS7: lines(east().message(document, func(sd *pkcs7.SignedData) {
			sd.GetSignedData().SignerInfos = nil
			sd.GetSignedData().ContentInfo.ContentType = pkcs7.OIDSignedData
			if err := sd.AddSigner(east().certificate, east().key, pkcs7.SignerInfoConfig{}); err != nil {
				t.Fatal(err)
			}
		}))}, "plain data"},
		{"SHA-1", Proof{PKCS7: lines(east().message(document, func(sd *pkcs7.SignedData) {
			sd.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA1)
			direct(east())(sd)
		}))}, "not signed with SHA-256"},
		{"DSA", Proof{PKCS7: lines(east().message(document, func(sd *pkcs7.SignedData) {
			sd.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA1)
			sd.SetEncryptionAlgorithm(pkcs7.OIDDigestAlgorithmDSA)
			direct(east())(sd)
		}))}, "send instance-identity/rsa2048"},
		{"ECDSA", Proof{PKCS7: lines(east().message(document, func(sd *pkcs7.SignedData) {
			sd.SetEncryptionAlgorithm(pkcs7.OIDDigestAlgorithmECDSASHA256)
			direct(east())(sd)
		}))}, "not signed with RSA"},
		{"enveloped data", Proof{PKCS7: lines(enveloped(t))}, "0 signers"},
	} {
		d, err := verifier(t).Verify(c.p)
		var e *Error
		if err == nil || !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v; want an Error with %q", c.name, err, c.want)
		}
		if d != (Document{}) {
			t.Errorf("%s: got a document with the error: %+v", c.name, d)
		}
	}
}

// impostor has a certificate like east's, but for the key.
func impostor() *authority {
	key := west().key
	template := &x509.Certificate{
		SerialNumber: east().certificate.SerialNumber, Subject: east().certificate.Subject,
		NotBefore: east().certificate.NotBefore, NotAfter: east().certificate.NotAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &authority{key, certificate}
}

// attributesAsContent passes off the signed attributes of a genuine message as
// the content of another, whose direct signature they then seem to have.
func attributesAsContent(t *testing.T) []byte {
	genuine, err := pkcs7.NewSignedData([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	genuine.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := genuine.AddSigner(east().certificate, east().key, pkcs7.SignerInfoConfig{}); err != nil {
		t.Fatal(err)
	}
	signer := genuine.GetSignedData().SignerInfos[0]
	attributes, err := asn1.MarshalWithParams(signer.AuthenticatedAttributes, "set")
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(attributes)
	if err := rsa.VerifyPKCS1v15(&east().key.PublicKey, crypto.SHA256, digest[:], signer.EncryptedDigest); err != nil {
		t.Fatalf("the attack is not one: %v", err)
	}
	return east().message(string(attributes), direct(east()), func(sd *pkcs7.SignedData) {
		sd.GetSignedData().SignerInfos[0].EncryptedDigest = signer.EncryptedDigest
	})
}

func enveloped(t *testing.T) []byte {
	out, err := pkcs7.Encrypt([]byte(document), []*x509.Certificate{east().certificate})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestShortKeysCanBeDoneWithout(t *testing.T) {
	v := verifier(t)
	v.PKCS7Only = true
	if _, err := v.Verify(Proof{Document: document, Signature: weak().signature(document)}); err == nil || !strings.Contains(err.Error(), "rsa2048") {
		t.Errorf("a signature alone: got %v", err)
	}
	if _, err := v.Verify(Proof{PKCS7: lines(east().message(document))}); err != nil {
		t.Errorf("a message: %v", err)
	}
}

func TestExpiredCertificatesAreNotUsed(t *testing.T) {
	v := verifier(t)
	v.Now = func() time.Time { return east().certificate.NotAfter.Add(time.Second) }
	p := Proof{PKCS7: lines(east().message(document))}
	if _, err := v.Verify(p); err == nil || !strings.Contains(err.Error(), "expired on") || !strings.Contains(err.Error(), "identityCertificates") {
		t.Errorf("after the certificates have expired: got %v", err)
	}
	renewed := *east()
	template := *renewed.certificate
	template.NotAfter = time.Now().Add(72 * time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &renewed.key.PublicKey, renewed.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Certificates.Add("us-east-1", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(p); err != nil {
		t.Errorf("with a certificate that an operator added: %v", err)
	}
}

// FuzzVerify changes proofs: whatever is believed has the bytes that were signed.
func FuzzVerify(f *testing.F) {
	v := verifier(f)
	raw := east().message(document)
	f.Add(document, weak().signature(document), "")
	f.Add("", "", lines(raw))
	f.Add(document, "", lines(indefinite(raw, 3)))
	f.Add(document, "", lines(east().message(document, (*pkcs7.SignedData).Detach)))
	f.Fuzz(func(t *testing.T, text, signature, message string) {
		genuine, err := parse([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		if d, err := v.Verify(Proof{text, signature, message}); err == nil && d != genuine {
			t.Errorf("believed %+v", d)
		}
	})
}

// FuzzMessage changes the bytes of a message below base64.
func FuzzMessage(f *testing.F) {
	v := verifier(f)
	f.Add(east().message(document))
	f.Add(indefinite(east().message(document), 3))
	f.Add(east().message(document, direct(east())))
	f.Add(west().message(document))
	f.Fuzz(func(t *testing.T, message []byte) {
		genuine, err := parse([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		if d, err := v.Verify(Proof{PKCS7: base64.StdEncoding.EncodeToString(message)}); err == nil && d != genuine {
			t.Errorf("believed %+v", d)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	v := verifier(b)
	for name, p := range map[string]Proof{
		"signature": {Document: document, Signature: weak().signature(document)},
		"pkcs7":     {PKCS7: lines(indefinite(east().message(document), 3))},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	// The most work that a caller without any signature can make.
	for name, text := range map[string]string{
		"hostile/open":   lines(bytes.Repeat([]byte{0x30, 0x80}, maxPKCS7*36/100)),
		"hostile/nested": lines(nested(maxPKCS7 * 73 / 100)),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := v.Verify(Proof{PKCS7: text}); err == nil {
					b.Fatal("believed")
				}
			}
		})
	}
}

// nested makes sequences within sequences, closed, of n bytes in all.
func nested(n int) []byte {
	open := n / 4
	return append(bytes.Repeat([]byte{0x30, 0x80}, open), make([]byte, 2*open)...)
}
