package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/journal"
)

func topCommand(t *terminal) *cobra.Command {
	var every time.Duration
	var once bool
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch containers, decisions, denials and pressure, live",
		Long: `top shows what this host's agent enforces and decides, and draws it anew every two
seconds: whether it enforces, decisions and denials a second, the node against its caps,
each container with what was denied in it and what it takes, and the last denials.

Keys:
  s  sort containers by denials, name, processor or memory
  d  the denials below the containers, or none
  p  stop, and go on
  up, down, page up, page down   scroll the containers
  q  end

What containers take is known while a LoadPolicy is in force (docs/load-policy.md). Counts
begin when top does, and are of records: what is allowed has them only with the agent's
--log-allowed. With --once one picture is printed after one interval, without a
terminal too; with -o json it is data.`,
		Example: `  belay top
  belay top --every 5s
  belay top --once -o json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 500*time.Millisecond || every > time.Hour {
				return badUsage("--every %v: want 500ms to 1h", every)
			}
			once = once || t.output == formatJSON
			if !once && !t.screen {
				return errors.New("this is no terminal: use --once for one picture, or -o json")
			}
			return t.top(cmd.Context(), every, once)
		},
	}
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "time between two pictures")
	cmd.Flags().BoolVar(&once, "once", false, "print one picture and end")
	return cmd
}

// topEvents bounds the records that wait to be counted; what follows them waits with the agent.
const topEvents = 4096

func (t *terminal) top(ctx context.Context, every time.Duration, once bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	records, failed := make(chan *journal.Record, topEvents), make(chan error, 1)
	start := t.now()
	go func() {
		failed <- t.client().Events(ctx, journal.ReadOptions{Since: start, Follow: true}, func(r *journal.Record) error {
			select {
			case records <- r:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	m := &topModel{t: t, every: every, tally: newTally(start), records: records, failed: failed, denials: true, ask: t.askTop}
	if once {
		return m.once(ctx)
	}
	_, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(t.in), tea.WithOutput(t.out)).Run()
	switch {
	case m.err != nil:
		return m.err
	case errors.Is(err, tea.ErrInterrupted), ctx.Err() != nil:
		return nil
	}
	return err
}

// askTop asks the agent for a picture, without what happened.
func (t *terminal) askTop(ctx context.Context) (*topPicture, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c := t.client()
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	p := &topPicture{Time: t.now(), Host: st.Host, Enforcing: st.Enforcing, Why: st.Why, Backend: st.Backend, Policies: len(st.Policies.Policies)}
	for _, component := range st.Health.Components {
		if component.Reason != "" {
			p.Troubles = append(p.Troubles, component.Name+": "+component.Reason)
		}
	}
	containers, err := c.Containers(ctx)
	if err != nil {
		return nil, err
	}
	load, err := c.Load(ctx)
	if err != nil { // an older agent has none
		load = &control.LoadStatus{}
	}
	p.fill(containers, load)
	return p, nil
}

// topModel is the live view. Bubble Tea calls its methods from one goroutine.
type topModel struct {
	t       *terminal
	every   time.Duration
	ask     func(context.Context) (*topPicture, error)
	records <-chan *journal.Record
	failed  <-chan error
	tally   *tally

	picture       *topPicture // nil: none yet
	err           error       // why it ends
	paused        bool
	denials       bool
	sort          topSort
	scroll        int
	width, height int
}

type (
	topTick   struct{}
	topAnswer struct {
		p   *topPicture
		err error
	}
)

// Init implements [tea.Model].
func (m *topModel) Init() tea.Cmd { return m.look }

func (m *topModel) look() tea.Msg {
	p, err := m.ask(context.Background())
	return topAnswer{p, err}
}

// Update implements [tea.Model].
func (m *topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		return m, m.key(msg.String())
	case topTick:
		if m.paused {
			return m, m.wait()
		}
		return m, m.look
	case topAnswer:
		if msg.err != nil {
			m.err = msg.err
			return m, tea.Quit
		}
		if err := m.take(msg.p); err != nil {
			m.err = err
			return m, tea.Quit
		}
		return m, m.wait()
	}
	return m, nil
}

func (m *topModel) wait() tea.Cmd {
	return tea.Tick(m.every, func(time.Time) tea.Msg { return topTick{} })
}

// take counts what has come and makes a picture of it.
//
// Errors: the agent tells of no records any more.
func (m *topModel) take(p *topPicture) error {
	for {
		select {
		case r := <-m.records:
			m.tally.add(r)
			continue
		case err := <-m.failed:
			if err == nil {
				err = errors.New("the agent has ended")
			}
			return fmt.Errorf("follow the records: %w", err)
		default:
		}
		break
	}
	m.tally.into(p)
	p.order(m.sort)
	m.picture = p
	return nil
}

func (m *topModel) key(k string) tea.Cmd {
	page := max(1, m.height/2)
	switch k {
	case "q", "ctrl+c", "esc":
		return tea.Quit
	case "s":
		m.sort = (m.sort + 1) % topSorts
		if m.picture != nil {
			m.picture.order(m.sort)
		}
	case "d":
		m.denials = !m.denials
	case "p", "space":
		m.paused = !m.paused
	case "up", "k":
		m.scroll--
	case "down", "j":
		m.scroll++
	case "pgup":
		m.scroll -= page
	case "pgdown":
		m.scroll += page
	case "home":
		m.scroll = 0
	}
	if m.picture != nil {
		m.scroll = min(m.scroll, len(m.picture.Containers)-1)
	}
	m.scroll = max(0, m.scroll)
	return nil
}

// View implements [tea.Model].
func (m *topModel) View() tea.View {
	text := "asking the agent …"
	if m.picture != nil {
		text = strings.Join(m.t.topFrame(m.picture, m.layout()), "\n")
	}
	v := tea.NewView(text)
	v.AltScreen = true
	v.WindowTitle = "belay top"
	return v
}

func (m *topModel) layout() topLayout {
	return topLayout{width: m.width, height: m.height, scroll: m.scroll, sort: m.sort, denials: m.denials, paused: m.paused, keys: true}
}

// once prints one picture, of one interval.
func (m *topModel) once(ctx context.Context) error {
	if _, err := m.ask(ctx); err != nil { // at once, if there is no agent
		return err
	}
	tick := time.NewTimer(m.every)
	defer tick.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-tick.C:
	}
	p, err := m.ask(ctx)
	if err != nil {
		return err
	}
	if err := m.take(p); err != nil {
		return err
	}
	if m.t.output == formatJSON {
		return m.t.writeJSON(p)
	}
	for _, l := range m.t.topFrame(p, topLayout{denials: true}) {
		fmt.Fprintln(m.t.out, l)
	}
	return nil
}
