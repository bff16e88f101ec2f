package aws

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// A verdict is what an error of EC2 means.
type verdict struct {
	unknown bool // whether it was done; repeat it
	class   fleet.Class
	code    string // EC2's; "" if it is none of EC2's
	text    string // for people: what was said, and what to do
}

// verdicts by EC2's codes, with what to do. Codes are documented at
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
var verdicts = map[string]struct {
	class  fleet.Class
	advice string
}{
	"InsufficientInstanceCapacity":         {fleet.SoldOut, soldOut},
	"InsufficientHostCapacity":             {fleet.SoldOut, soldOut},
	"InsufficientCapacity":                 {fleet.SoldOut, soldOut},
	"InsufficientReservedInstanceCapacity": {fleet.SoldOut, soldOut},
	"InsufficientVolumeCapacity":           {fleet.SoldOut, soldOut},
	"ReservationCapacityExceeded":          {fleet.SoldOut, soldOut},
	"UnfulfillableCapacity":                {fleet.SoldOut, soldOut},
	"CapacityNotAvailable":                 {fleet.SoldOut, soldOut},
	"InsufficientFreeAddressesInSubnet":    {fleet.SoldOut, "The subnet has no free addresses: use a larger one, or further zones."},
	"SpotMaxPriceTooLow":                   {fleet.SoldOut, "Raise maxPrice, or add instance types."},

	"VcpuLimitExceeded":               {fleet.Quota, raiseQuota},
	"InstanceLimitExceeded":           {fleet.Quota, raiseQuota},
	"VolumeLimitExceeded":             {fleet.Quota, raiseQuota},
	"MaxIOPSLimitExceeded":            {fleet.Quota, raiseQuota},
	"NetworkInterfaceLimitExceeded":   {fleet.Quota, raiseQuota},
	"AddressLimitExceeded":            {fleet.Quota, raiseQuota},
	"HostLimitExceeded":               {fleet.Quota, raiseQuota},
	"ResourceLimitExceeded":           {fleet.Quota, raiseQuota},
	"LaunchTemplateLimitExceeded":     {fleet.Quota, raiseQuota},
	"LaunchTemplateVersionLimit":      {fleet.Quota, raiseQuota},
	"InstanceCreditSpecification":     {fleet.Wrong, fixConfig},
	"RequestLimitExceeded":            {fleet.Throttled, slower},
	"Throttling":                      {fleet.Throttled, slower},
	"ThrottlingException":             {fleet.Throttled, slower},
	"ThrottledException":              {fleet.Throttled, slower},
	"EC2ThrottledException":           {fleet.Throttled, slower},
	"RequestThrottled":                {fleet.Throttled, slower},
	"RequestThrottledException":       {fleet.Throttled, slower},
	"TooManyRequestsException":        {fleet.Throttled, slower},
	"BandwidthLimitExceeded":          {fleet.Throttled, slower},
	"PriorRequestNotComplete":         {fleet.Throttled, slower},
	"ConcurrentTagAccess":             {fleet.Throttled, slower},
	"UnauthorizedOperation":           {fleet.Denied, allow},
	"AccessDenied":                    {fleet.Denied, allow},
	"AccessDeniedException":           {fleet.Denied, allow},
	"AuthFailure":                     {fleet.Denied, credentials + " A region that the account has not opted in to is answered like this, too."},
	"Blocked":                         {fleet.Denied, "AWS has blocked the account: ask AWS."},
	"OptInRequired":                   {fleet.Denied, "The account has to subscribe to what it uses, or to opt in to the region."},
	"PendingVerification":             {fleet.Denied, "AWS verifies the account for this region first, which may take hours."},
	"InvalidClientTokenId":            {fleet.Denied, credentials},
	"UnrecognizedClientException":     {fleet.Denied, credentials},
	"SignatureDoesNotMatch":           {fleet.Denied, credentials},
	"IncompleteSignature":             {fleet.Denied, credentials},
	"MissingAuthenticationToken":      {fleet.Denied, credentials},
	"ExpiredToken":                    {fleet.Denied, credentials},
	"ExpiredTokenException":           {fleet.Denied, credentials},
	"RequestExpired":                  {fleet.Denied, "The clock of the server is wrong, or its credentials are."},
	"MissingParameter":                {fleet.Wrong, fixConfig},
	"UnknownParameter":                {fleet.Wrong, fixConfig},
	"Unsupported":                     {fleet.Wrong, "The zone does not have the instance type, or the type cannot do what is asked of it: use another zone or type."},
	"UnsupportedOperation":            {fleet.Wrong, fixConfig},
	"UnsupportedHibernationInstance":  {fleet.Wrong, fixConfig},
	"VPCIdNotSpecified":               {fleet.Wrong, "The account has no default network in the region: name a subnet and security groups."},
	"VPCResourceNotSpecified":         {fleet.Wrong, "Name a subnet and security groups."},
	"DefaultVpcDoesNotExist":          {fleet.Wrong, "Name a subnet and security groups."},
	"MissingInput":                    {fleet.Wrong, fixConfig},
	"OperationNotPermitted":           {fleet.Wrong, fixConfig},
	"EncryptedVolumesNotSupported":    {fleet.Wrong, fixConfig},
	"TagLimitExceeded":                {fleet.Wrong, "Take tags out of launchConfig.TagSpecifications."},
	"InvalidAMIID.NotFound":           {fleet.Wrong, "The image is not there, or not shared with the account: images are of one region each. Put one of the region into launchConfig.ImageId, or use imageParameter."},
	"InvalidAMIID.Unavailable":        {fleet.Wrong, "The image is not ready, or has been deregistered: use another in launchConfig.ImageId."},
	"InvalidAMIID.Malformed":          {fleet.Wrong, "launchConfig.ImageId has to be an image's id, ami-…"},
	"InvalidGroup.NotFound":           {fleet.Wrong, "Correct launchConfig.SecurityGroupIds; groups are of one network each."},
	"InvalidSecurityGroupID.NotFound": {fleet.Wrong, "Correct launchConfig.SecurityGroupIds; groups are of one network each."},
	"InvalidSubnetID.NotFound":        {fleet.Wrong, "Correct the SubnetId; subnets are of one zone each."},
	"InvalidSubnet":                   {fleet.Wrong, "Correct the SubnetId; subnets are of one zone each."},
	"InvalidKeyPair.NotFound":         {fleet.Wrong, "Correct launchConfig.KeyName, or import the key pair into the region."},
	"IdempotentParameterMismatch":     {fleet.Broken, "This should not happen: the intent's id has been used for another request. Please report it."},
}

// particular are codes by which a market refuses what a launch configuration
// says, or has: others may well be served there.
var particular = map[string]bool{
	"InsufficientFreeAddressesInSubnet": true, "SpotMaxPriceTooLow": true, "InsufficientHostCapacity": true,
	"InsufficientReservedInstanceCapacity": true, "ReservationCapacityExceeded": true,
}

// families of codes, by how they begin.
var families = []struct {
	prefix string
	class  fleet.Class
	advice string
}{
	{"Invalid", fleet.Wrong, fixConfig},
	{"AuthFailure.", fleet.Denied, allow},
	{"Malformed", fleet.Wrong, fixConfig},
	{"Max", fleet.Quota, raiseQuota},
	{"Missing", fleet.Wrong, fixConfig},
	{"Unsupported", fleet.Wrong, fixConfig},
}

const (
	soldOut     = "The market is closed for a while. More instance types, zones or regions make this rarer."
	raiseQuota  = "Raise the account's quota in the AWS console (Service Quotas, Amazon EC2), or use another account or region."
	fixConfig   = "Correct the pool's launchConfig; `taskfleet provisioner pools validate` tries it out."
	slower      = "Requests are made more slowly for a while. If this is frequent somebody else uses the account's limits, too; an account of its own helps."
	allow       = "Allow it in the policy of the role or user that the provisioner acts as."
	credentials = "Correct the provisioner's credentials, or the role it assumes."
)

// kinds of complaints by class.
var kinds = map[fleet.Class]string{
	fleet.Broken: fleet.KindStart, fleet.Wrong: fleet.KindConfig, fleet.Denied: fleet.KindAuth,
	fleet.SoldOut: fleet.KindCapacity, fleet.Quota: fleet.KindQuota, fleet.Throttled: fleet.KindThrottle,
}

// judge says what a code means.
func judge(code, message string) verdict {
	v := verdict{code: code, class: fleet.Broken}
	advice := "AWS's documentation of error codes may say more."
	if e, has := verdicts[code]; has {
		v.class, advice = e.class, e.advice
	} else {
		for _, f := range families {
			if strings.HasPrefix(code, f.prefix) {
				v.class, advice = f.class, f.advice
				break
			}
		}
	}
	v.text = fmt.Sprintf("EC2 said %s: %s %s", code, sentence(message), advice)
	return v
}

// sentence ends a message with a full stop.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	const most = 1000 // encoded authorization messages are long, and nobody can read them
	if i := strings.Index(s, "Encoded authorization failure message"); i > 0 {
		s = strings.TrimSpace(s[:i])
	}
	if len(s) > most {
		s = s[:most] + "…"
	}
	if s != "" && !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// explainCall says what an error of a call means.
func explainCall(err error) verdict {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		_, known := verdicts[e.ErrorCode()]
		v := judge(e.ErrorCode(), e.ErrorMessage())
		if !known && v.class == fleet.Broken && !refused(err, e) || transient[e.ErrorCode()] {
			v.unknown = true
		}
		return v
	}
	// A failure to get credentials is of no API, and has no type.
	if s := err.Error(); strings.Contains(s, "get credentials") || strings.Contains(s, "failed to refresh cached credentials") {
		if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			return verdict{class: fleet.Denied, text: sentence(s) + " " + credentials}
		}
	}
	return verdict{unknown: true, text: sentence(err.Error())}
}

// refused reports whether an error says that the request was wrong. The SDK does
// not know that of EC2's errors, but has the status of HTTP.
func refused(err error, e smithy.APIError) bool {
	if r, ok := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err); ok {
		return r.HTTPStatusCode()/100 == 4
	}
	return e.ErrorFault() == smithy.FaultClient
}

// transient codes say nothing about whether the request was acted on.
var transient = map[string]bool{
	"InternalError": true, "InternalFailure": true, "InternalServerError": true, "Unavailable": true, "ServiceUnavailable": true,
	"ServiceUnavailableException": true, "RequestTimeout": true, "RequestTimeoutException": true,
}
