package identity

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

// The regions of AWS's three public partitions and of the European sovereign one.
var regions = strings.Fields(`
	af-south-1 ap-east-1 ap-east-2 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2
	ap-southeast-1 ap-southeast-2 ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-6 ap-southeast-7
	ca-central-1 ca-west-1 eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3
	il-central-1 me-central-1 me-south-1 mx-central-1 sa-east-1 us-east-1 us-east-2 us-west-1 us-west-2
	cn-north-1 cn-northwest-1 us-gov-east-1 us-gov-west-1 eusc-de-east-1`)

func TestPublishedCertificates(t *testing.T) {
	all := Published()
	if len(all) != len(regions) {
		t.Errorf("there are certificates of %d regions and should be of %d", len(all), len(regions))
	}
	owners := map[string]string{}
	for _, region := range regions {
		forms := map[int]int{}
		for _, c := range all[region] {
			key := c.PublicKey.(*rsa.PublicKey)
			forms[key.N.BitLen()]++
			// The older ones name the domain as well.
			if s := c.Subject.String(); s != "O=Amazon Web Services LLC,L=Seattle,ST=Washington State,C=US" &&
				s != "CN=ec2.amazonaws.com,O=Amazon Web Services LLC,L=Seattle,ST=Washington,C=US" &&
				s != "CN=ec2.amazonaws.com,O=Amazon.com Inc.,L=Seattle,ST=Washington,C=US" {
				t.Errorf("%s: the subject of a certificate is %s", region, s)
			}
			if c.Issuer.String() != c.Subject.String() {
				t.Errorf("%s: a certificate is not its own issuer but %s's", region, c.Issuer)
			}
			if err := signsItself(c, key); err != nil {
				t.Errorf("%s: a certificate does not sign itself: %v", region, err)
			}
			if c.NotAfter.Before(time.Date(2028, 7, 1, 0, 0, 0, 0, time.UTC)) {
				t.Errorf("%s: a certificate expires as soon as %s", region, c.NotAfter)
			}
			if key.N.BitLen() == 2048 {
				if other, ok := owners[string(c.RawSubjectPublicKeyInfo)]; ok {
					t.Errorf("%s has the 2048-bit key of %s", region, other)
				}
				owners[string(c.RawSubjectPublicKeyInfo)] = region
			}
		}
		if forms[2048] != 1 || forms[1024] != 1 || len(forms) != 2 {
			t.Errorf("%s: the numbers of certificates by length of key are %v; want one of 1024 and one of 2048 bits", region, forms)
		}
	}
	if expiring := all.Expiring(time.Date(2028, 12, 31, 0, 0, 0, 0, time.UTC)); len(expiring) != 2 || !strings.Contains(expiring[0], "region cn-north-1 expires on 2028-07-02") {
		t.Errorf("until the end of 2028 expire %q", expiring)
	}
}

// signsItself is x509's CheckSignature, which does not know SHA-1 any more; one
// certificate has it.
func signsItself(c *x509.Certificate, key *rsa.PublicKey) error {
	if c.SignatureAlgorithm != x509.SHA1WithRSA {
		return c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	}
	h := crypto.SHA1.New()
	h.Write(c.RawTBSCertificate)
	return rsa.VerifyPKCS1v15(key, crypto.SHA1, h.Sum(nil), c.Signature)
}

func TestWhoAddsCertificatesDoesSoForHimself(t *testing.T) {
	mine := Published()
	if err := mine.Add("us-east-1", east().pem()); err != nil {
		t.Fatal(err)
	}
	if err := mine.Add("fake-east-1", append([]byte("a note\n"), append(east().pem(), west().pem()...)...)); err != nil {
		t.Fatal(err)
	}
	if got := [...]int{len(mine["us-east-1"]), len(mine["fake-east-1"])}; got != [...]int{3, 2} {
		t.Errorf("numbers of certificates: got %v", got)
	}
	if others := Published(); len(others["us-east-1"]) != 2 || others["fake-east-1"] != nil {
		t.Error("what one caller added shows up for others")
	}
}

func TestOnlyUsableCertificatesAreAdded(t *testing.T) {
	key := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(east().key)})
	for _, c := range []struct{ name, region, text, want string }{
		{"region", "US East", string(east().pem()), `"US East" is not the name of a region`},
		{"nothing", "us-east-9", "", "no certificate in the text"},
		{"key", "us-east-9", string(key), "not a certificate but: RSA PRIVATE KEY"},
		{"broken", "us-east-9", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "certificate 1 of region us-east-9"},
		{"DSA", "us-east-9", dsaCertificate, "the ones titled RSA and RSA-2048"},
		{"second is wrong", "us-east-9", string(east().pem()) + dsaCertificate, "certificate 2 of region us-east-9"},
	} {
		all := Certificates{}
		if err := all.Add(c.region, []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v; want %q", c.name, err, c.want)
		}
		if len(all) != 0 {
			t.Errorf("%s: something was added", c.name)
		}
	}
}

// Published by AWS, where the others are, for the form pkcs7.
const dsaCertificate = `-----BEGIN CERTIFICATE-----
MIIC7TCCAq0CCQCWukjZ5V4aZzAJBgcqhkjOOAQDMFwxCzAJBgNVBAYTAlVTMRkw
FwYDVQQIExBXYXNoaW5ndG9uIFN0YXRlMRAwDgYDVQQHEwdTZWF0dGxlMSAwHgYD
VQQKExdBbWF6b24gV2ViIFNlcnZpY2VzIExMQzAeFw0xMjAxMDUxMjU2MTJaFw0z
ODAxMDUxMjU2MTJaMFwxCzAJBgNVBAYTAlVTMRkwFwYDVQQIExBXYXNoaW5ndG9u
IFN0YXRlMRAwDgYDVQQHEwdTZWF0dGxlMSAwHgYDVQQKExdBbWF6b24gV2ViIFNl
cnZpY2VzIExMQzCCAbcwggEsBgcqhkjOOAQBMIIBHwKBgQCjkvcS2bb1VQ4yt/5e
ih5OO6kK/n1Lzllr7D8ZwtQP8fOEpp5E2ng+D6Ud1Z1gYipr58Kj3nssSNpI6bX3
VyIQzK7wLclnd/YozqNNmgIyZecN7EglK9ITHJLP+x8FtUpt3QbyYXJdmVMegN6P
hviYt5JH/nYl4hh3Pa1HJdskgQIVALVJ3ER11+Ko4tP6nwvHwh6+ERYRAoGBAI1j
k+tkqMVHuAFcvAGKocTgsjJem6/5qomzJuKDmbJNu9Qxw3rAotXau8Qe+MBcJl/U
hhy1KHVpCGl9fueQ2s6IL0CaO/buycU1CiYQk40KNHCcHfNiZbdlx1E9rpUp7bnF
lRa2v1ntMX3caRVDdbtPEWmdxSCYsYFDk4mZrOLBA4GEAAKBgEbmeve5f8LIE/Gf
MNmP9CM5eovQOGx5ho8WqD+aTebs+k2tn92BBPqeZqpWRa5P/+jrdKml1qx4llHW
MXrs3IgIb6+hUIB+S8dz8/mmO0bpr76RoZVCXYab2CZedFut7qc3WUH9+EUAH5mw
vSeDCOUMYQR7R9LINYwouHIziqQYMAkGByqGSM44BAMDLwAwLAIUWXBlk40xTwSw
7HX32MxXYruse9ACFBNGmdX2ZBrVNGrN9N2f6ROk0k9K
-----END CERTIFICATE-----
`
