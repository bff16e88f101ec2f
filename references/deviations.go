package references

// Deviations are the places at which the API differs from the one that
// Taskcluster publishes, and why. A schema's place is a path in its JSON. Tests
// compare with the published API where it is at hand: a difference that is not
// here fails them, and so does one here that is none. docs/compatibility.md is
// made of this list.
var Deviations = map[string]string{
	"queue/create-task-request.json /properties/payload/default":                                                       "published as [], which the schema of payload itself refuses; payload is required anyway",
	"queue/post-artifact-response.json /oneOf/0/properties/multipart":                                                  "extension: one presigned PUT ends at 5 GiB",
	"queue/claim-work-request.json /properties/holding":                                                                "extension: a claim whose answer was lost is handed out again at once",
	"queue/post-artifact-request.json /oneOf/0/properties/contentEncoding":                                             "extension: an upload in parts gets its encoding when it begins",
	"queue/finish-artifact-request.json /properties/parts":                                                             "extension: S3 joins the parts of an upload by their ETags",
	"worker-manager/config-local.json":                                                                                 "extension: pools whose workers are processes on the machine of the server",
	"worker-manager/worker-lifecycle.json /properties/maxAge":                                                          "extension: workers that grow too old are replaced",
	"worker-manager/register-worker-request.json /properties/workerIdentityProof/oneOf":                                "extension: the stronger of the two signatures that AWS gives to identity documents",
	"worker-manager/config-aws.json /required":                                                                         "launchConfigs or regions: anyOf says so",
	"worker-manager/config-aws.json /anyOf":                                                                            "extension: regions times zones times instance types, beside launchConfigs",
	"worker-manager/config-aws.json /properties/sizing":                                                                "extension: how the size is decided",
	"worker-manager/config-aws.json /properties/schedule":                                                              "extension: how the size is decided",
	"worker-manager/config-aws.json /properties/scopes":                                                                "extension: what workers get besides",
	"worker-manager/config-aws.json /properties/secrets":                                                               "extension: what workers get besides",
	"worker-manager/config-aws.json /properties/regions":                                                               "extension: regions times zones times instance types",
	"worker-manager/config-aws.json /properties/launchConfig":                                                          "extension: regions times zones times instance types",
	"worker-manager/config-aws.json /properties/additionalUserData":                                                    "extension: regions times zones times instance types",
	"worker-manager/config-aws.json /properties/workerConfig":                                                          "extension: regions times zones times instance types",
	"worker-manager/config-aws.json /properties/account":                                                               "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/account":                                "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/imageParameter":                                                        "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/imageParameter":                         "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/availabilityZones":                                                     "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/availabilityZones":                      "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/instanceTypes":                                                         "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/instanceTypes":                          "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/canUseSpot":                                                            "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/canUseSpot":                             "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/canUseOndemand":                                                        "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/canUseOndemand":                         "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/minPrice":                                                              "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/minPrice":                               "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/maxPrice":                                                              "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/maxPrice":                               "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/ondemandAfter":                                                         "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/ondemandAfter":                          "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/launchConfig/required":                  "the image may be that of an imageParameter",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/launchConfig/not":                       "said for each of the members that the provisioner itself sets, so that an error names it",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/launchConfig/properties/LaunchTemplate": "said for each of the members that the provisioner itself sets, so that an error names it",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/launchConfig/properties/MaxCount":       "said for each of the members that the provisioner itself sets, so that an error names it",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/launchConfig/properties/MinCount":       "said for each of the members that the provisioner itself sets, so that an error names it",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/launchConfig/properties/UserData":       "said for each of the members that the provisioner itself sets, so that an error names it",
	"worker-manager/config-static.json /properties/scopes":                                                             "extension: what workers get besides",
	"worker-manager/config-static.json /properties/secrets":                                                            "extension: what workers get besides",
}

// Notes are what there is to say about single methods, by "service.method".
var Notes = map[string]string{
	"auth.awsS3Credentials":   "complete; needs auth.aws in the configuration",
	"auth.azureAccounts":      "complete; needs auth.azure in the configuration",
	"auth.azureTables":        "complete; needs auth.azure in the configuration",
	"auth.azureTableSAS":      "complete; needs auth.azure in the configuration",
	"auth.azureContainers":    "complete; needs auth.azure in the configuration",
	"auth.azureContainerSAS":  "complete; needs auth.azure in the configuration",
	"auth.gcpCredentials":     "complete; needs auth.gcp in the configuration",
	"auth.githubRepoToken":    "complete; needs auth.github in the configuration",
	"auth.websocktunnelToken": "complete; needs auth.websocktunnel in the configuration",
	"auth.sentryDSN":          "complete; needs auth.sentry in the configuration",
	"notify.email":            "complete; needs notify.smtp or notify.ses in the configuration",
	"notify.slack":            "complete; needs notify.slack in the configuration",
	"notify.matrix":           "complete; needs notify.matrix in the configuration",
	"queue.createArtifact":    "complete; beside the published forms, a large artifact can be uploaded in parts",
	"queue.claimWork":         "complete; wakes at once when there is work",
}

// Behaviours are where the same call does something else than a client of
// Taskcluster's own may know, and why.
var Behaviours = []string{
	"Error texts are our own; codes, statuses and the form of the body are the published ones.",
	"A request cannot be made twice: a Hawk nonce is accepted once. Clients that make a new one for each attempt, as all do, do not notice.",
	"A task that becomes pending is claimed at once; nothing polls the database for workers that wait.",
	"Changing the priority of a group of more than ten thousand tasks goes on after the reply, which lists those that were changed by then.",
	"The same priority again is 200 without a message, not 409.",
	"An exact repetition of createArtifact for an object that is not finished answers with the upload that is under way, not with 409.",
	"A secret that has expired is answered with 410, as the reference says, for a day, and with 404 from then on.",
	"A schedule fires a hook at most once a minute, however fine its pattern is.",
	"Defaults of a triggerSchema are filled in where they are valid themselves, as the documentation of hooks says.",
	"What is not configured (a chat, a cloud) is refused with a message that says what to configure.",
	"Lists are never longer than 1000 entries, and end early where entries are large.",
	"Streams of events speak a protocol of their own, documented in events.md; the web interface's GraphQL subscriptions are not there.",
}
