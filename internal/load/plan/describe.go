package plan

import (
	"encoding/json"
	"fmt"
)

// DescriptionSchema is of this form of a description; another is refused.
const DescriptionSchema = "belay.dev/node/v1"

// Description is what an agent says of its own node: GET /belay/v1/node of its gate.
type Description struct {
	Schema string `json:"schema"`
	Node   Node   `json:"node"`
	// Hysteresis is how many points of percent below its caps it wants to stay.
	Hysteresis int `json:"hysteresis"`
	// Left are moves of the last days that have taken containers away from it, so that no
	// other node brings them back too soon. To and From are as the node calls others and itself.
	Left []Past `json:"left"`
}

// ReadDescription reads what another node says. Fields that this version does not know are
// not an error: it may be newer. The node is not [Node.Accepts] unless it says so.
//
// Errors: of encoding/json; another schema.
func ReadDescription(data []byte) (*Description, error) {
	if len(data) > MaxStateBytes {
		return nil, fmt.Errorf("the description is larger than %d MiB", MaxStateBytes>>20)
	}
	d := &Description{}
	if err := json.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("read the description of a node: %w", err)
	}
	if d.Schema != DescriptionSchema {
		return nil, fmt.Errorf("the description of a node is of the form %q, and this belay reads %q", d.Schema, DescriptionSchema)
	}
	return d, nil
}
