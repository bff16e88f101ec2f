package api

import "net/url"

// parseQueryString is url.ParseQuery with errors for the caller.
func parseQueryString(raw string) (url.Values, error) {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, Errorf(InvalidRequestArguments, "The query string is malformed: %v", err)
	}
	for name, list := range v {
		for _, x := range list {
			if !plainText(name) || !plainText(x) {
				return nil, Errorf(InvalidRequestArguments, "The query parameter %q is not valid UTF-8 text", name)
			}
		}
	}
	return v, nil
}
