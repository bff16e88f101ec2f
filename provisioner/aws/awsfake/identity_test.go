package awsfake_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/smallstep/pkcs7"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
)

func TestAnInstancesIdentityIsSignedWithItsRegionsKey(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	i := must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 1))).Instances[0]
	id := must[awsfake.Identity](t)(w.Identity(*i.InstanceId))
	certificate := must[*x509.Certificate](t)(w.Certificate("us-east-1"))

	var document map[string]any
	if err := json.Unmarshal(id.Document, &document); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{
		"instanceId": *i.InstanceId, "imageId": *i.ImageId, "privateIp": *i.PrivateIpAddress, "region": "us-east-1", "accountId": account,
		"availabilityZone": *i.Placement.AvailabilityZone, "instanceType": "m5.large", "architecture": "x86_64", "pendingTime": "2026-03-01T12:00:00Z",
	} {
		if document[field] != want {
			t.Errorf("%s is %v, want %s", field, document[field], want)
		}
	}

	sum := sha256.Sum256(id.Document)
	plain := must[[]byte](t)(base64.StdEncoding.DecodeString(id.Signature))
	if err := rsa.VerifyPKCS1v15(certificate.PublicKey.(*rsa.PublicKey), crypto.SHA256, sum[:], plain); err != nil {
		t.Errorf("signature: %v", err)
	}

	sealed := must[*pkcs7.PKCS7](t)(pkcs7.Parse(must[[]byte](t)(base64.StdEncoding.DecodeString(id.RSA2048))))
	if len(sealed.Certificates) != 0 || string(sealed.Content) != string(id.Document) {
		t.Errorf("%d certificates; content %q", len(sealed.Certificates), sealed.Content)
	}
	sealed.Certificates = []*x509.Certificate{certificate}
	if err := sealed.Verify(); err != nil {
		t.Errorf("rsa2048: %v", err)
	}
	sealed.Certificates = []*x509.Certificate{must[*x509.Certificate](t)(w.Certificate("eu-west-1"))}
	if err := sealed.Verify(); err == nil {
		t.Error("another region's certificate verifies it too")
	}
}
