// Package identity decides whether who calls is the EC2 instance it says it is.
//
// EC2 gives every instance a document, a small JSON object that names the
// instance, its account, region, image, type and private address, and signs it
// with a key of the region. An instance reads the document and the signatures
// from its metadata service and shows them when it registers as a worker; no
// secret has to be put into its user data. Two steps lead to trust, and both
// are needed:
//
//   - [Verifier.Verify] finds out that EC2 signed the document. That alone is
//     little: everybody with an account can have signed documents.
//   - [Document.Match] compares it with what we know of the instance that we
//     launched.
//
// A third is the caller's: the document is readable by every process of the
// instance for as long as it runs, so it is good for one registration only.
//
// EC2 offers three signatures, under these names in the metadata:
//
//   - rsa2048, a PKCS #7 message with SHA-256, by a key of 2048 bits for each
//     region, which holds the document as well. [Proof.PKCS7]; our workers send it.
//   - signature, a bare PKCS #1 v1.5 signature with SHA-256 of the document.
//     [Proof.Signature]; the official worker-runner sends it. Its keys have 1024
//     bits, and some twenty old regions share one: the document's region is then
//     proved by Match alone. [Verifier.PKCS7Only] does without.
//   - pkcs7, which is DSA with SHA-1. Not accepted.
//
// The certificates are not for chains: each signs itself, EC2 publishes them,
// and we carry them with us ([Published]). What matters is the key in them and
// how long it is to be used. Certificates that come along in a message are not
// looked at.
package identity

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/smallstep/pkcs7"
)

// Limits, in bytes, on what a caller may show. A document has some 500, an
// rsa2048 message some 1,500 in base64. The limit on messages also bounds the
// work of unpacking nested ones.
const (
	maxDocument  = 4 << 10
	maxSignature = 1 << 10
	maxPKCS7     = 8 << 10
)

// A Proof is what an instance shows for its identity, each part as its metadata
// service gives it under /latest/dynamic/instance-identity/. One of Signature
// and PKCS7 is needed; if both are there, both have to be right.
type Proof struct {
	Document  string // document, byte for byte; may be left out when there is PKCS7
	Signature string // signature: base64, with or without line breaks
	PKCS7     string // rsa2048: base64, with or without line breaks
}

// Signed makes the proof of a document and a signature of either form, as they
// come with registerWorker, which has one place for both. A bare signature is as
// long as its key; a message holds one, the document and more.
func Signed(document, signature string) Proof {
	if len(signature) > maxSignature {
		return Proof{Document: document, PKCS7: signature}
	}
	return Proof{Document: document, Signature: signature}
}

// A Verifier checks signatures. It may be used by several goroutines at once.
type Verifier struct {
	Certificates Certificates
	PKCS7Only    bool             // whether to refuse proofs without the stronger form
	Now          func() time.Time // tells which certificates have expired; nil means time.Now
}

// An Error says why a caller is not believed. Its message is for the log: it
// names what differs, which would help somebody who tries documents.
type Error struct {
	Public string // what the caller may be told
	reason string
}

func (e *Error) Error() string { return "instance identity: " + e.reason }

// refusef makes an error whose reason lies in the proof alone; the caller, who
// has the proof, learns nothing by it.
func refusef(format string, args ...any) error {
	reason := fmt.Sprintf(format, args...)
	return &Error{Public: reason, reason: reason}
}

// Verify returns the document that a proof proves. An error is an [*Error].
func (v Verifier) Verify(p Proof) (Document, error) {
	switch {
	case len(p.Document) > maxDocument:
		return Document{}, refusef("the document has %d bytes; %d are allowed", len(p.Document), maxDocument)
	case len(p.Signature) > maxSignature:
		return Document{}, refusef("the signature has %d bytes; %d are allowed", len(p.Signature), maxSignature)
	case len(p.PKCS7) > maxPKCS7:
		return Document{}, refusef("the PKCS #7 message has %d bytes; %d are allowed", len(p.PKCS7), maxPKCS7)
	case p.PKCS7 == "" && v.PKCS7Only:
		return Document{}, refusef("only PKCS #7 messages are accepted here: send what the metadata service has under instance-identity/rsa2048")
	case p.PKCS7 == "" && p.Signature == "":
		return Document{}, refusef("the document has no signature: send instance-identity/rsa2048 or instance-identity/signature of the metadata service with it")
	}
	content := []byte(p.Document)
	var message *pkcs7.PKCS7
	if p.PKCS7 != "" {
		var err error
		if message, err = parsePKCS7(p.PKCS7); err != nil {
			return Document{}, err
		}
		switch {
		case len(message.Content) == 0: // the signature of a document that is elsewhere
			message.Content = content
		case len(content) == 0:
			content = message.Content
		case !bytes.Equal(message.Content, content):
			return Document{}, refusef("the PKCS #7 message is about another document than the one sent with it")
		}
	}
	// The document has to be read before its signature is checked, as it names
	// the region; nothing of it is used until then but that.
	d, err := parse(content)
	if err != nil {
		return Document{}, err
	}
	certificates, err := v.usable(d.Region)
	if err != nil {
		return Document{}, err
	}
	if p.Signature != "" {
		if err := checkSignature(content, p.Signature, certificates); err != nil {
			return Document{}, fmt.Errorf("%w (region %s)", err, d.Region)
		}
	}
	if message != nil {
		if err := checkPKCS7(message, certificates); err != nil {
			return Document{}, fmt.Errorf("%w (region %s)", err, d.Region)
		}
	}
	return d, nil
}

// usable returns the certificates of a region that have not expired.
func (v Verifier) usable(region string) ([]*x509.Certificate, error) {
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	all := v.Certificates[region]
	if len(all) == 0 {
		return nil, refusef("no certificate is known for region %s. %s", region, howToAdd)
	}
	var usable []*x509.Certificate
	var last time.Time
	for _, c := range all {
		if now().Before(c.NotAfter) {
			usable = append(usable, c)
		} else if last.Before(c.NotAfter) {
			last = c.NotAfter
		}
	}
	if len(usable) == 0 {
		return nil, refusef("the last certificate of region %s expired on %s. %s", region, last.Format(time.DateOnly), howToAdd)
	}
	return usable, nil
}

const howToAdd = "An operator can add certificates: take the RSA-2048 one of the region, and the RSA one if official workers run there, from " +
	"https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/regions-certs.html and put both, as PEM, under the region's name into identityCertificates of the provider's configuration"

// checkSignature checks a signature of the form `signature`.
func checkSignature(content []byte, signature string, certificates []*x509.Certificate) error {
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return refusef("the signature is not base64")
	}
	digest := sha256.Sum256(content)
	for _, c := range certificates {
		if rsa.VerifyPKCS1v15(c.PublicKey.(*rsa.PublicKey), crypto.SHA256, digest[:], raw) == nil {
			return nil
		}
	}
	return refusef("the signature of the document is not EC2's")
}

var oidRSA, oidSHA256WithRSA = pkcs7.OIDEncryptionAlgorithmRSA, pkcs7.OIDEncryptionAlgorithmRSASHA256

// parsePKCS7 unpacks a message of the form `rsa2048` and makes sure that it is
// of that form: one signer, RSA, SHA-256.
func parsePKCS7(text string) (*pkcs7.PKCS7, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, refusef("the PKCS #7 message is not base64 without header and footer")
	}
	m, err := pkcs7.Parse(raw)
	if err != nil {
		return nil, refusef("the PKCS #7 message cannot be unpacked: %v", err)
	}
	if len(m.Signers) != 1 {
		return nil, refusef("the PKCS #7 message has %d signers; EC2's have one", len(m.Signers))
	}
	s := m.Signers[0]
	switch algorithm, digest := s.DigestEncryptionAlgorithm.Algorithm, s.DigestAlgorithm.Algorithm; {
	case algorithm.Equal(pkcs7.OIDDigestAlgorithmDSA), algorithm.Equal(pkcs7.OIDDigestAlgorithmDSASHA1):
		return nil, refusef("the PKCS #7 message is signed with DSA: this is instance-identity/pkcs7 of the metadata service; send instance-identity/rsa2048")
	case !digest.Equal(pkcs7.OIDDigestAlgorithmSHA256):
		return nil, refusef("the PKCS #7 message is not signed with SHA-256 but with algorithm %v; send instance-identity/rsa2048 of the metadata service", digest)
	case !algorithm.Equal(oidRSA) && !algorithm.Equal(oidSHA256WithRSA):
		return nil, refusef("the PKCS #7 message is not signed with RSA but with algorithm %v", algorithm)
	}
	return m, nil
}

// minPKCS7Bits keeps the short keys of the form `signature` from being good for
// a PKCS #7 message.
const minPKCS7Bits = 2048

// checkPKCS7 checks the one signature of a message.
//
// A message may sign its content by way of attributes, one of which is the
// digest of the content, or directly. That the bytes of the attributes of one
// message can be passed off as the directly signed content of another (RFC 5652,
// section 11.2, on signed attributes) does no harm here, because they are no JSON.
func checkPKCS7(m *pkcs7.PKCS7, certificates []*x509.Certificate) error {
	if len(m.Signers[0].AuthenticatedAttributes) > 0 {
		var contentType asn1.ObjectIdentifier
		if err := m.UnmarshalSignedAttribute(pkcs7.OIDAttributeContentType, &contentType); err != nil || !contentType.Equal(pkcs7.OIDData) {
			return refusef("the PKCS #7 message does not sign its content as plain data")
		}
	}
	why := errors.New("it has no certificate of sufficient length")
	for _, c := range certificates {
		if c.PublicKey.(*rsa.PublicKey).N.BitLen() < minPKCS7Bits {
			continue
		}
		m.Certificates = []*x509.Certificate{c} // in place of those that the message brought
		if why = m.Verify(); why == nil {
			return nil
		}
	}
	return refusef("the PKCS #7 message is not signed by EC2: %v", why)
}
