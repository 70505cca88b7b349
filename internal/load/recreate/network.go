package recreate

import "strings"

// NetworkOptions returns options without what is each engine's own: the name of the bridge,
// and what newer engines write down of what older ones do without saying.
func NetworkOptions(o map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range o {
		if k != "com.docker.network.bridge.name" && !strings.HasPrefix(k, "com.docker.network.enable_ipv") {
			out[k] = v
		}
	}
	return out
}
