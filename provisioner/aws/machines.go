package aws

import (
	"strconv"
	"strings"
)

// list is what Linux costs on demand in us-east-1, in dollars an hour of a
// virtual processor, by family of instance types, as published in 2025. It
// serves for choosing between markets and for estimates; what is really paid is
// on the bill. Families that are not here have no known price.
var list = map[string]float64{
	"t2": 0.0464, "t3": 0.0416, "t3a": 0.0376, "t4g": 0.0336,
	"c4": 0.0498, "c5": 0.0425, "c5a": 0.0385, "c5ad": 0.043, "c5d": 0.048, "c5n": 0.054,
	"c6a": 0.03825, "c6g": 0.034, "c6gd": 0.0384, "c6gn": 0.0432, "c6i": 0.0425, "c6id": 0.0504, "c6in": 0.0567,
	"c7a": 0.05132, "c7g": 0.03625, "c7gd": 0.04535, "c7i": 0.044625, "c7i-flex": 0.0424, "c8g": 0.03988,
	"m4": 0.05, "m5": 0.048, "m5a": 0.043, "m5ad": 0.0515, "m5d": 0.0565, "m5n": 0.0595,
	"m6a": 0.0432, "m6g": 0.0385, "m6gd": 0.0452, "m6i": 0.048, "m6id": 0.059325, "m6in": 0.06963,
	"m7a": 0.05796, "m7g": 0.0408, "m7gd": 0.0534, "m7i": 0.0504, "m7i-flex": 0.04788, "m8g": 0.04488,
	"r4": 0.0665, "r5": 0.063, "r5a": 0.0565, "r5d": 0.072, "r6a": 0.0567, "r6g": 0.0504, "r6gd": 0.0576, "r6i": 0.063, "r6id": 0.0756,
	"r7a": 0.07608, "r7g": 0.05355, "r7gd": 0.0681, "r7i": 0.06615, "r8g": 0.05892,
	"i3": 0.078, "i3en": 0.113, "i4i": 0.0858, "i4g": 0.0772, "z1d": 0.093, "x2gd": 0.0835,
}

// regional is what a region costs, compared with us-east-1, on the average.
var regional = map[string]float64{
	"us-east-1": 1, "us-east-2": 1, "us-west-1": 1.2, "us-west-2": 1, "ca-central-1": 1.1,
	"eu-west-1": 1.12, "eu-west-2": 1.18, "eu-west-3": 1.18, "eu-central-1": 1.19, "eu-north-1": 1.06, "eu-south-1": 1.17,
	"ap-south-1": 1.01, "ap-southeast-1": 1.2, "ap-southeast-2": 1.25, "ap-northeast-1": 1.27, "ap-northeast-2": 1.21, "sa-east-1": 1.57,
}

// ListPrice is about what an hour of an instance of Linux costs on demand, in
// dollars, from a table of common types; 0 for others. What AWS charges may
// differ by a few percent, and by contract.
func ListPrice(region, instanceType string) float64 {
	family, size, _ := strings.Cut(instanceType, ".")
	f := regional[region]
	if f == 0 {
		f = 1.2
	}
	price := list[family] * float64(vcpus(instanceType)) * f
	if part, is := burstable[size]; is && strings.HasPrefix(family, "t") {
		price = list[family] * 2 * part * f
	}
	return price
}

// burstable is what the small sizes of burstable families cost, compared with
// large, whose processors they have.
var burstable = map[string]float64{"medium": 1. / 2, "small": 1. / 4, "micro": 1. / 8, "nano": 1. / 16}

// vcpus is the number of virtual processors of an instance type, by the rule
// that its size follows. There are exceptions among the largest and the oldest,
// for which it is near enough: it serves to stay within quotas, and EC2 has the
// last word.
func vcpus(instanceType string) int64 {
	family, size, _ := strings.Cut(instanceType, ".")
	switch size {
	case "nano", "micro", "small", "medium":
		if strings.HasPrefix(family, "t") && (family != "t2" || size == "medium") {
			return 2
		}
		return 1
	case "large":
		return 2
	case "xlarge":
		return 4
	}
	n, found := strings.CutSuffix(size, "xlarge")
	if !found { // metal-24xl
		n = strings.TrimSuffix(strings.TrimPrefix(size, "metal-"), "xl")
	}
	if n, err := strconv.ParseInt(n, 10, 64); err == nil && n > 0 {
		return 4 * n
	}
	return 96 // metal
}
