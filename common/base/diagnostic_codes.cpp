// The rows of the table. One section per area: IO CLI YAML SCEN UNIT MODEL CLUS PLAN SCHED CAL TIME
// RDZV EXEC CKPT INT. Add rows at the end of your area's section; numbers rise, none is reused.
#include "common/base/diagnostic_codes.h"

#include <fmt/format.h>

namespace tandem {
namespace {

constexpr Failure kUsage = Failure::usage;
constexpr Failure kInput = Failure::bad_input;
constexpr Failure kInfeasible = Failure::infeasible;
constexpr Failure kOutput = Failure::output;

// clang-format off
constexpr CodeInfo kCodes[] = {
    // --- IO: files and folders -------------------------------------------------------------------
    {"E-IO-001", kInput, "cannot open the file",
     "The path does not exist, is a dangling link, or may not be read.", "tandem validate nothing.yaml"},
    {"E-IO-002", kInput, "not a regular file",
     "Folders, FIFOs, sockets and devices are never read: they could block for ever.", "tandem validate /dev/stdin"},
    {"E-IO-003", kInput, "the file is too large",
     "Each kind of file has a limit (common/base/limits.h); at most the limit is read.", "a scenario of 2 MiB"},
    {"E-IO-004", kInput, "cannot read the file",
     "The system reported an error while reading.", "a failing disk"},
    {"E-IO-010", kOutput, "cannot write the file",
     "Disk full, no permission or a failing disk. The temporary is removed; an older file of that name is untouched.",
     "-o on a full disk"},
    {"E-IO-011", kOutput, "cannot make the folder",
     "The folder, or one above it, cannot be made or is a file.", "-o /dev/null/x"},

    // --- CLI: flags and arguments --------------------------------------------------------------
    {"E-CLI-001", kUsage, "unknown command",
     "The first word is the command; the nearest one, and all, are shown.", "tandem simulat x.yaml"},
    {"E-CLI-002", kUsage, "unknown option",
     "The nearest option of the command is shown.", "tandem validate x.yaml --jsn"},
    {"E-CLI-003", kUsage, "an argument is missing, or there is one too many",
     "The usage line of `tandem COMMAND --help` shows what a command takes.", "tandem validate"},
    {"E-CLI-004", kUsage, "an option has a wrong value",
     "A word where a number is needed, or not one of the words that the option takes.", "--seed x"},
    {"E-CLI-005", kUsage, "options or arguments that do not go together",
     "Each works by itself.", "tandem plan plan.txt --dump-after order"},
    {"E-CLI-006", kUsage, "the output folder holds something else",
     "A folder that a run of the same plan wrote is updated, an empty one is taken. Everything else needs --force.",
     "-o ~"},
    {"E-CLI-007", kUsage, "the output folder is a link",
     "Links are not followed: what they point at may be anything.", "-o latest, a link to runs/7"},
    {"E-CLI-008", kUsage, "not in this version",
     "The option is planned; the message lists what works.", "tandem plan x.yaml --format chakra"},
    {"E-CLI-009", kInput, "this is no complete run",
     "manifest.json is written last. A folder without it was not written by tandem, or the command did not end.",
     "tandem compare ."},
    {"E-CLI-010", kInput, "a file of the run is damaged",
     "The manifest lists the SHA-256 of every file of the run; this file differs, or the manifest itself cannot be read.",
     "an edited plan.txt"},
    {"E-CLI-011", kInput, "the run lacks a timeline",
     "compare needs a predicted and a measured one, report a predicted one.", "tandem compare of a run that was only simulated"},
    {"E-CLI-012", kUsage, "the plan is too large for a picture",
     "At most 2,000 ops.", "tandem plan gpt3-175b-1024.yaml --format dot"},
    {"W-CLI-001", kUsage, "an option has no effect",
     "Every command takes the common options; this one does not use it.", "tandem version --seed 2"},

    // --- YAML: the text of a scenario ------------------------------------------------------------
    {"E-YAML-001", kInput, "the text is not UTF-8",
     "UTF-16 and other encodings are refused with the byte offset. Save as UTF-8, with or without byte order mark.", "a file saved as UTF-16"},
    {"E-YAML-002", kInput, "control character in the text",
     "NUL, escape codes and lone carriage returns are refused: parsers and terminals read them in different ways.", "a NUL byte"},
    {"E-YAML-003", kInput, "invisible character in the text",
     "Bidirectional and zero-width characters can make a text look like another one.", "U+202E in a comment"},
    {"E-YAML-004", kInput, "the line is too long",
     "Lines have at most 4,096 bytes.", "a list of 1,000 numbers on one line"},
    {"E-YAML-005", kInput, "too many brackets and commas",
     "At most 65,536 of [ ] { } , in a file: the parser needs memory for each.", "a million ["},
    {"E-YAML-006", kInput, "YAML directives are not supported",
     "Lines that start with % are directives.", "%YAML 1.2"},
    {"E-YAML-007", kInput, "not valid YAML",
     "The text is no YAML; the message says what is wrong where. Only the first such fault can be found.", "a: [1, 2"},
    {"E-YAML-008", kInput, "lists and mappings are nested too deeply",
     "At most 32 levels.", "[[[[...]]]]"},
    {"E-YAML-009", kInput, "too many values",
     "At most 200,000 keys, values and lists.", "a generated file"},
    {"E-YAML-010", kInput, "the value is too long",
     "A value has at most 4,096 bytes.", "a block text of 5,000 bytes"},
    {"E-YAML-011", kInput, "too many keys in one mapping",
     "At most 4,096.", "a generated file"},
    {"E-YAML-012", kInput, "YAML anchors and aliases are not supported",
     "They hide where a value comes from and can blow a text up. Write values out, or use a preset.", "a: &x 1"},
    {"E-YAML-013", kInput, "YAML tags are not supported",
     "The field table says what type a value has.", "tp: !!int 2"},
    {"E-YAML-014", kInput, "YAML merge keys are not supported",
     "Write the keys out, or use a preset.", "<<: {tp: 2}"},
    {"E-YAML-015", kInput, "a second document in one file",
     "One scenario a file. It needs no ---: a key after a list at the same indentation is one.", "--- after the end"},
    {"E-YAML-016", kInput, "this cannot be a key",
     "Keys are names.", "[a, b]: 1"},
    {"E-YAML-017", kInput, "key is given twice",
     "Each key once in a mapping; the note shows the first.", "tp: 2 ... tp: 4"},

    // --- SCEN: fields and rules of a scenario ----------------------------------------------------
    {"E-SCEN-001", kInput, "a scenario is a mapping of keys and values",
     "The file holds a list, a single value or nothing.", "- 1"},
    {"E-SCEN-002", kInput, "the format version is missing",
     "Every scenario says which version of the format it is written in.", "a file without tandem: 1"},
    {"E-SCEN-003", kInput, "unknown key",
     "No field has this name; the nearest one is shown.", "paralel:"},
    {"E-SCEN-004", kInput, "the wrong kind of value",
     "A list where a number is needed, a quoted text where a number is needed, and the like.", "tp: [2]"},
    {"E-SCEN-005", kInput, "not one of the words of the field",
     "The field is a choice; the nearest word is shown.", "schedule: 1f1b1"},
    {"E-SCEN-006", kInput, "not a whole number",
     "Counts are 0 or digits without a leading zero: 010 means 8 to some readers and 10 to others.", "tp: 010"},
    {"E-SCEN-007", kInput, "a whole number out of range",
     "Each count has a range in the reference page.", "tp: 0"},
    {"E-SCEN-008", kInput, "not a decimal number",
     "Finite decimals with a point; no .nan, no .inf, nothing that overflows or becomes 0.", "lr: .nan"},
    {"E-SCEN-009", kInput, "a number or quantity out of range",
     "Each field has a range in the reference page.", "efficiency above 1"},
    {"E-SCEN-010", kInput, "not true or false",
     "yes, on, 1 and the like are refused.", "tied_embeddings: yes"},
    {"E-SCEN-011", kInput, "no value",
     "A key with nothing after the colon.", "tp:"},
    {"E-SCEN-012", kInput, "not a plain name",
     "1 to 64 of A-Z a-z 0-9 _ . -; names become file and folder names.", "name: ../x"},
    {"E-SCEN-013", kInput, "unknown format version",
     "This program reads version 1.", "tandem: 2"},
    {"E-SCEN-015", kInput, "a list of the wrong length",
     "The field needs a certain number of entries.", "betas: [0.9]"},
    {"E-SCEN-016", Failure::usage, "--set needs PATH=VALUE",
     "The option has no equals sign or no known path.", "--set parallel.tp"},
    {"E-SCEN-017", Failure::usage, "too many --set options",
     "At most 256.", "a script gone wrong"},
    {"E-SCEN-018", kInput, "a text is too long",
     "At most 1,024 bytes.", "a path of 2,000 characters"},
    {"E-SCEN-020", kInfeasible, "not available in this version",
     "The field is known, but this version can do only what the message lists.", "cp: 2"},
    {"E-SCEN-021", kInput, "not an option of this kind",
     "The schedule kind does not take the option.", "schedule: {kind: 1f1b, backward: lifo}"},
    {"E-SCEN-022", kInput, "an order that does not name each axis once",
     "parallel.order is a permutation of the five axes.", "order: [tp, dp]"},
    {"E-SCEN-023", kInput, "a preset sets a field outside its section",
     "A model preset holds model fields only, and so on.", "parallel: {tp: 2} in a model preset"},
    {"E-SCEN-030", kInfeasible, "the degrees do not divide the devices",
     "tp * cp * pp must divide nodes * devices_per_node.", "tp 3 on 8 devices"},
    {"E-SCEN-031", kInfeasible, "parallel.dp does not fit",
     "tp * cp * pp * dp must be the number of devices.", "dp 3 with tp 2 on 8 devices"},
    {"E-SCEN-032", kInfeasible, "heads are not a multiple of tp",
     "Attention is split by heads.", "heads 4, tp 3"},
    {"E-SCEN-033", kInfeasible, "ffn_hidden is not a multiple of tp",
     "The feed-forward part is split along its inner width.", "ffn_hidden 250, tp 4"},
    {"E-SCEN-034", kInfeasible, "the batch is no whole number of microbatches",
     "global_batch must be a multiple of micro_batch * dp.", "global_batch 10, micro_batch 4"},
    {"E-SCEN-035", kInfeasible, "fewer layers than pipeline stages",
     "Every stage needs a layer.", "8 layers, pp 16"},
    {"E-SCEN-036", kInfeasible, "layer_split does not fit",
     "One positive number for each stage, with the number of layers as sum.", "layer_split: [5, 2] of 8 layers"},
    {"E-SCEN-037", kInfeasible, "the sequence is longer than the model has positions",
     "gpt learns a vector for each position.", "sequence 64, max_sequence 32"},
    {"E-SCEN-038", kInfeasible, "more devices than Tandem handles",
     "At most 1,048,576, estimated before anything is built.", "nodes: 1000000"},
    {"E-SCEN-039", kInfeasible, "more microbatches than Tandem handles",
     "At most 1,048,576 a step and replica.", "global_batch: 2000000000"},
    {"E-SCEN-040", kInfeasible, "the plan would have more operations than Tandem handles",
     "At most 50 million, estimated before anything is built.", "a million microbatches of 96 layers"},
    {"E-SCEN-044", kInfeasible, "output.ranks names a rank that does not exist",
     "Ranks are 0 to world - 1.", "ranks: [9] of 2"},
    {"E-SCEN-045", kInfeasible, "stages_per_rank does not fit the schedule kind",
     "gpipe and 1f1b have one stage on each rank.", "stages_per_rank: 2 with 1f1b"},
    {"E-SCEN-046", kInfeasible, "the rate decays before it has warmed up",
     "decay_steps counts from step 0 and must be above warmup_steps.", "warmup_steps 5, steps 3, decay cosine"},
    {"E-SCEN-047", kInfeasible, "min_lr is above lr",
     "The rate falls to min_lr.", "lr 1e-4, min_lr 1e-3"},
    {"E-SCEN-048", kInfeasible, "grouping runs with receive deferred",
     "Grouped messages need their receives posted early.", "schedule: {receive: deferred, grouping: runs}"},
    {"E-SCEN-049", kInfeasible, "fewer microbatches than stages with strict: torch",
     "PyTorch refuses this; so does strict: torch.", "pp 4, 2 microbatches"},
    {"E-SCEN-060", kInfeasible, "the executor has no kernels for this precision",
     "fp32 and fp64 can be executed; others only simulated.", "tandem execute with bf16"},
    {"E-SCEN-061", kInfeasible, "too many ranks to execute",
     "One launcher watches at most 4,096 processes.", "tandem execute on 16,384 devices"},
    {"E-SCEN-062", kInfeasible, "the executor has no grouped messages on shared communicators",
     "Its transports run the messages of a queue one after the other.", "tandem execute with grouping runs and communicators pair"},
    {"W-SCEN-001", kInput, "a field has no effect",
     "The value is read, but nothing in this scenario uses it.", "decay_steps without decay"},
    {"W-SCEN-002", kInput, "fewer microbatches than pipeline stages",
     "It runs, with a large bubble.", "pp 4, 2 microbatches"},

    // --- UNIT: quantities ------------------------------------------------------------------------
    {"E-UNIT-001", kInput, "the quantity needs a unit",
     "A bare number could mean two things; both are shown.", "bandwidth: 50"},
    {"E-UNIT-002", kInput, "unknown unit",
     "The nearest unit, or all that fit, are shown.", "2 furlong"},
    {"E-UNIT-003", kInput, "the unit does not fit here",
     "A time where a size is needed, and the like.", "memory: 2 us"},
    {"E-UNIT-004", kInput, "the number of the quantity cannot be read",
     "A decimal number with a point, then the unit.", "1,5 GB"},
    {"E-UNIT-005", kInput, "the unit KB has two meanings",
     "kB is 1000 bytes, KiB is 1024.", "64 KB"},
    {"E-UNIT-006", kInput, "not a whole number of bytes",
     "Sizes are whole bytes.", "1.5 B"},

    // --- MODEL: the model section ------------------------------------------------------------------
    {"E-MODEL-001", kInput, "unknown model preset",
     "The nearest one, and all, are shown. A path with / or .yaml is a preset file of yours.", "model: gpt-tinny"},
    {"E-MODEL-003", kInfeasible, "hidden is not a multiple of heads",
     "Or give head_dim.", "hidden 64, heads 5"},
    {"E-MODEL-004", kInfeasible, "heads are not a multiple of kv_heads",
     "Each key/value head serves the same number of heads.", "heads 4, kv_heads 3"},
    {"E-MODEL-005", kInput, "the model is incomplete",
     "Without a preset every size must be given.", "model: {layers: 2}"},
    {"E-MODEL-006", kInfeasible, "kv_heads with family gpt",
     "gpt has as many key/value heads as heads.", "kv_heads: 2"},
    {"E-MODEL-007", kInfeasible, "rope dimension is odd",
     "Rotary positions turn pairs of values of a head.", "family llama, head_dim 15"},

    // --- CLUS: the cluster section -------------------------------------------------------------------
    {"E-CLUS-001", kInput, "unknown cluster preset",
     "The nearest one, and all, are shown.", "cluster: dgx-h1000"},
    {"E-CLUS-002", kInput, "unknown device preset",
     "The nearest one, and all, are shown.", "device: {preset: h100}"},
    {"E-CLUS-003", kInput, "the number of nodes is given twice",
     "Either `NAME x N` or nodes.", "{preset: dgx-h100 x 2, nodes: 4}"},
    {"E-CLUS-004", kInfeasible, "no network level connects the devices or nodes",
     "Several nodes need a level with scope cluster.", "nodes: 2 without a network"},
    {"E-CLUS-005", kInput, "two levels of the network have one name",
     "Names are used in reports.", "two levels named nvlink"},
    {"E-CLUS-006", kInfeasible, "the device has no peak rate for the precision",
     "The data sheet has none; choose another precision or add it.", "bf16 on V100"},
    {"E-CLUS-007", kInput, "the device is incomplete",
     "Memory and its bandwidth must be given, or a device preset.", "cluster: {nodes: 2}"},
    {"E-CLUS-008", kInput, "levels of the network in the wrong order",
     "From the inside (node) out (cluster).", "a node level after a fat_tree"},
    {"E-CLUS-009", kInput, "a level of the network is incomplete",
     "Name, bandwidth and latency are required.", "network: [{name: a}]"},
    {"E-CLUS-010", kInfeasible, "cluster local has one node",
     "It is this machine.", "cluster: {preset: local, nodes: 2}"},
    {"E-CLUS-011", kInfeasible, "a slow device is not one of the ranks",
     "Ranks are 0 to world - 1.", "rank: 9 of 2"},
    {"E-CLUS-012", kInput, "a slow device is listed twice",
     "Each rank once.", "two entries for rank 0"},
    {"E-CLUS-013", kInput, "a slow device is incomplete",
     "Rank and factor are required.", "slow_devices: [{rank: 1}]"},
    {"E-CLUS-014", kInput, "too many entries in a list of the cluster",
     "At most 8 network levels and 4,096 slow devices.", "nine levels"},
    {"E-CLUS-015", kInfeasible, "the plan has more ranks than the cluster",
     "Each rank needs a device of its own.", "16 ranks on one node of 8 devices"},
    {"E-CLUS-016", kInfeasible, "a level of the network cannot be simulated",
     "One level of scope node and one of scope cluster; kinds switch, fat_tree, ring and full_mesh (of at most 1,024).",
     "two levels of scope node"},
    {"W-CLUS-001", kInput, "a network level has no latency",
     "Small messages will look free.", "latency: 0 us"},

    // --- PLAN: plan text and verification ------------------------------------------------------------
    {"E-PLAN-001", kInfeasible, "the schedule cannot be made",
     "The message holds the arithmetic of the schedule kind.", "1f1b with stages_per_rank: 2"},
    {"E-PLAN-002", kInput, "the order of the schedule cannot run",
     "Ranks wait for each other; the message shows where each one stands, and the grid of the order.", "an order with a backward before the forward it needs"},
    {"E-PLAN-010", kInput, "this is no plan text of version 1",
     "The first line that is no comment starts with `plan 1`.", "an empty plan.txt"},
    {"E-PLAN-011", kInput, "a line of the plan has the wrong form",
     "docs/plan_reference.md has the grammar of every line.", "op 3 F on=compute k2(7,1 -> 12"},
    {"E-PLAN-012", kInput, "unknown word in the plan",
     "No field, kernel, buffer class, type, axis or kind of op has this name; the nearest one is shown.", "op 4 F on=comm:tp al_reduce c0"},
    {"E-PLAN-013", kInput, "a number of the plan is wrong or out of range",
     "Numbers are whole, without sign, blank or leading zero, and bounded.", "buf 07"},
    {"E-PLAN-014", kInput, "an id out of order",
     "Ids of communicators, buffers, kernels, programs and ops count from 0 without a gap; tables come in that order.", "op 5 after op 3"},
    {"E-PLAN-015", kInput, "the plan names something that it does not have",
     "A buffer, kernel, communicator or op that is referred to must be in its table.", "waits=999 in a plan of 94 ops"},
    {"E-PLAN-016", kInput, "a field of the plan is missing or given twice",
     "Each field once; docs/plan_reference.md says which are required.", "a send without match="},
    {"E-PLAN-017", kInput, "the plan text is too large",
     "Limits are in common/base/limits.h: bytes, bytes of a line, ops.", "a line of 20 MiB"},
    {"E-PLAN-020", kInput, "the plan is not well-formed (V1)",
     "Ids, ranges, stages on their rank, operands against the kernel catalogue, views inside their bucket.", "a linear_fwd with a weight of the wrong size"},
    {"E-PLAN-021", kInput, "the two ends of a communication do not fit (V5)",
     "A send and a receive, or the members of a collective, differ in rank, communicator, size or type.", "a receive of fewer bytes than are sent"},
    {"E-PLAN-022", kInput, "a stage does not do every microbatch once (V2)",
     "One forward, one backward or an I and a W of every stage and microbatch, in that order.", "an order without 2B3"},
    {"E-PLAN-023", kInput, "a buffer is used outside its life (V3)",
     "Read before it is written, used after it is freed, freed twice or never, written while a send reads it.", "a buffer freed one op too early"},
    {"E-PLAN-024", kInfeasible, "ops wait for each other (V4)",
     "Waits, the order of streams and sends before receives form a cycle; the message shows it.", "0F0,0B0 against 1F1,1F0"},
    {"E-PLAN-025", kInfeasible, "the plan would deadlock (V6)",
     "With sends that wait for their receiver, under the memory rule, or one communication at a time, some ops never end.",
     "both ranks send first on one communicator"},
    {"E-PLAN-026", kInput, "two ranks use a communicator in different orders (V7)",
     "Messages have no names on the wire: the third receive takes the third send.", "receives swapped on one rank"},
    {"E-PLAN-027", kInfeasible, "the plan needs more memory than a device has (V8)",
     "Peak of the plan's buffers, walked in issue order; the message has the op and the bytes of each class.", "gpipe with many microbatches"},
    {"E-PLAN-028", kInput, "two streams touch a buffer without order (V9)",
     "Between streams only waits order ops; one is missing.", "a send that does not wait for its producer"},

    {"E-PLAN-080", kInfeasible, "the plan needs more memory than a device has",
     "The message shows the op at the peak, its time and the bytes of each class there. Kernels' own scratch is included.",
     "175 billion parameters on 8 devices"},
    {"E-PLAN-081", kInfeasible, "the plan cannot finish",
     "Ops wait for each other. Verification refuses such plans; this is the simulator's own finding.",
     "two ranks that both send before they receive on one communicator"},
    {"E-PLAN-082", kInfeasible, "an op that cannot be simulated",
     "post_validate belongs to a later version.", "optimizer_barrier: post_validated"},

    // --- SCHED: schedules by themselves ----------------------------------------------------------------

    // --- CAL: calibration tables -------------------------------------------------------------------
    {"E-CAL-001", kInput, "the calibration is not a JSON object",
     "A .cal.json file is written by `tandem calibrate`.", "an empty file"},
    {"E-CAL-002", kInput, "the calibration lacks a value, or one has the wrong type",
     "The message names the path inside the file.", "kernels: 3"},
    {"E-CAL-003", kInput, "a value of the calibration is out of range",
     "Times and rates are positive and finite, kernels are those of the catalogue, segments ascend.",
     "seconds: -1"},
    {"E-CAL-004", kInput, "too many entries in the calibration",
     "At most 200,000 in a table, and 64 levels of nesting.", "a million kernels"},
    {"E-CAL-005", kInput, "an entry of the calibration is given twice",
     "One figure for each kernel and number of busy cores, one curve for each kind and size of group.",
     "two entries of one kernel"},
    {"E-CAL-006", kInput, "the calibration is of another precision",
     "Its times would be wrong without a sign of it.", "a calibration in fp32 for a run in bf16"},
    {"E-CAL-007", kInput, "a file of a measurement is damaged",
     "While it calibrates, Tandem passes requests and results between its processes as JSON files.",
     "a result without points"},
    {"E-CAL-008", Failure::execution, "a measuring process failed",
     "`tandem calibrate` and `tandem run` time kernels in a process of their own.",
     "a process that was killed"},

    // --- TIME: timelines -------------------------------------------------------------------------
    {"E-TIME-001", kInput, "this is no timeline that can be read",
     "Timelines are read from Perfetto traces and CSV files that tandem wrote; the Chrome JSON export is for viewers only.",
     "tandem compare photo.png"},
    {"E-TIME-002", kInput, "the timeline is damaged",
     "The file is cut off, or its bytes do not follow the format. The message names the packet and byte, or the line and column.",
     "a copy of half a .pftrace"},
    {"E-TIME-003", kInput, "a record of the timeline is impossible",
     "Times must be in order and within 11.6 days, ids and bytes not negative, and every op there once in every step.",
     "a span that ends before it starts"},
    {"E-TIME-004", kInput, "the timeline does not fit the plan",
     "It names a rank, an op or a kernel call that the plan has not, or an op of another rank's program.",
     "a timeline of another plan"},
    {"E-TIME-005", kInput, "a rank is missing from the timeline",
     "Every rank of the plan, or every rank that the timeline says it holds, must have spans.",
     "a file put together from some ranks"},
    {"E-TIME-006", kInput, "the two timelines belong to different plans",
     "Ops are joined by their id, which means the same only within one plan.",
     "compare of two runs with different schedules"},
    {"E-TIME-007", kInput, "the two timelines have nothing in common",
     "One holds no steps, or they hold different ranks.", "an empty timeline"},
    {"W-TIME-001", kInput, "the clocks of the ranks differ",
     "A communication ended on one rank before another rank was there. Waiting and transfer times of such ranks are off by about that much; step times are not.",
     "hosts without time synchronisation"},
    {"E-TIME-010", kInput, "the timeline of a rank is damaged",
     "RUN/ranks/K.timeline is cut, changed or of another version.", "a rank that was killed while it wrote"},

    // --- RDZV: rendezvous ------------------------------------------------------------------------
    {"E-RDZV-001", Failure::peer_lost, "the launcher cannot be reached",
     "Nothing answers at the launcher's address, or what answers there cannot prove that it knows the run's token.",
     "a rank whose launcher was killed"},
    {"E-RDZV-002", Failure::peer_lost, "the launcher refused the rank",
     "Version, plan, world and backend of all ranks must be equal, and each rank joins once; the message says what differs.",
     "two ranks 3"},
    {"E-RDZV-003", Failure::peer_lost, "not all ranks joined the run",
     "The others did not come within execute.timeout.", "a rank that hangs while it starts"},
    {"E-RDZV-004", Failure::peer_lost, "the run was stopped before it began",
     "Another rank failed while this one was waiting for all to join.", "a rank that crashes at its start"},
    {"E-RDZV-005", Failure::peer_lost, "the launcher cannot listen",
     "The control plane listens on 127.0.0.1, or on the one address it is told; never on every address.",
     "--listen 0.0.0.0"},
    {"E-RDZV-006", Failure::usage, "the token of the run cannot be used",
     "A run's token is 32 random bytes. A file that holds one has mode 0600 and 64 hexadecimal digits.",
     "a token file that others can read"},

    // --- EXEC: execution -------------------------------------------------------------------------
    {"E-EXEC-001", Failure::peer_lost, "a rank cannot be started",
     "The system refused a process, a pipe or the program itself.", "ulimit -u 10"},
    {"E-EXEC-002", Failure::peer_lost, "a rank was killed",
     "By a signal that is no crash. SIGKILL that nobody sent by hand mostly means: out of memory.",
     "kill -9 of a rank"},
    {"E-EXEC-003", Failure::internal, "a rank crashed",
     "SIGSEGV, SIGABRT and the like: a fault of the program.", "a kernel that writes beyond its buffer"},
    {"E-EXEC-004", Failure::execution, "a rank failed",
     "By itself; the message is its own, and the exit code is that of its class.", "a loss that is no number"},
    {"E-EXEC-005", Failure::peer_lost, "a rank left early",
     "It ended with exit code 0 before the last step.", "a library that calls exit(0)"},
    {"E-EXEC-006", Failure::peer_lost, "a rank was stopped",
     "By SIGSTOP or the like, for longer than execute.timeout or until others had waited in vain.", "kill -STOP of a rank"},
    {"E-EXEC-007", Failure::peer_lost, "an operation does not end",
     "Longer than max(execute.timeout, 20 x predicted step), though it waits for nobody.", "a kernel that hangs"},
    {"E-EXEC-008", Failure::peer_lost, "a rank did not join the run",
     "Within execute.timeout after the start.", "16 ranks that load LibTorch from a slow disk"},
    {"E-EXEC-009", Failure::peer_lost, "a rank is silent",
     "Its process lives, but its control connection broke, or no heartbeat came for 15 s.", "a machine that swaps"},
    {"E-EXEC-010", Failure::peer_lost, "a rank waited for another in vain",
     "No other rank died, stopped or failed by itself; the message names the operation.", "a rank that computes for longer than execute.timeout"},
    {"E-EXEC-011", Failure::peer_lost, "the run was stopped",
     "A rank was told to stop, and nothing else is known.", "a launcher that was killed"},
    {"E-EXEC-012", kInput, "this is no ring of a rank",
     "RUN/ranks/K.ring is cut, changed or of another version.", "a run of another version"},
    {"E-EXEC-013", Failure::usage, "the arguments of a rank cannot be used",
     "The subcommand __rank is for the launcher alone.", "tandem __rank"},
    {"E-EXEC-014", Failure::execution, "the verification did not end well",
     "The process that repeats the run with autograd failed, crashed or took too long.", "a machine without memory for the whole model"},
    {"E-EXEC-015", Failure::interrupted, "the run was interrupted",
     "Ctrl-C or SIGTERM: all ranks were stopped. A second Ctrl-C kills them at once.", "Ctrl-C"},
    {"E-EXEC-016", kInput, "the training text is not there",
     "training.data.path names a file of bytes, from the scenario's folder.", "training: {data: {path: nothing.txt}}"},
    {"E-EXEC-017", Failure::execution, "the device is not built in",
     "This build runs kernels on the CPU.", "--device cuda"},
    {"E-EXEC-018", Failure::usage, "the scenario has another number of ranks",
     "--ranks is a check: the number follows from tp, pp, cp and dp.", "--ranks 3 of a scenario with tp 2"},

    {"E-EXEC-030", kInput, "the training file of a run cannot be used",
     "RUN/training.json is written by the tools; it was changed, cut or belongs to another version.", "an edited training.json"},
    {"E-EXEC-031", Failure::execution, "a value that must be finite is not",
     "The squared gradient norm is infinite or no number: the step stops before the update, nothing was changed.", "a learning rate that diverges"},
    {"E-EXEC-032", Failure::execution, "a kernel failed",
     "LibTorch refused a kernel of the plan or ran out of memory.", "a plan for more memory than there is"},
    {"E-EXEC-033", kInput, "the training text is too short",
     "A sample is sequence + 1 bytes at an offset below bytes - sequence.", "a file of 10 bytes, sequence 32"},
    {"E-EXEC-034", kInput, "a file of a rank is missing or damaged",
     "Verification needs the gradients of every rank of the run.", "a run that did not finish"},
    {"E-EXEC-035", kInfeasible, "the executor cannot run this plan",
     "The plan asks for something that this build has no code for.", "dtype bf16 on the CPU"},
    {"E-EXEC-040", Failure::execution, "members disagree about an operation",
     "Two ranks of a communicator came to different operations, or to one with different sizes, types or steps. Found before any data is moved, at both.", "ranks that read different plans"},
    {"E-EXEC-041", Failure::peer_lost, "a peer has gone",
     "The other end of a socket pair is closed: that rank ended or was killed. Its own report has the cause.", "kill -9 of a rank"},
    {"E-EXEC-042", Failure::peer_lost, "a peer did not answer in time",
     "An operation did not end within execute.timeout. The ranks that were waited for are named.", "a stopped rank"},
    {"E-EXEC-043", Failure::peer_lost, "the run was aborted",
     "Another rank failed first; this one was told to stop.", "one rank of four fails"},
    {"E-EXEC-044", Failure::internal, "the sockets of a rank are not those of its plan",
     "Launcher and rank derive the socket pairs from the plan; here they came to different lists.", "a rank started by hand"},
    {"E-EXEC-045", kInfeasible, "the transport cannot run this operation",
     "The buffer is smaller than the message, or values of this type cannot be added on the host.", "an all-reduce of f16"},
    {"E-EXEC-046", kInfeasible, "the run needs more open files than the system allows",
     "Each pair of ranks that exchanges messages has one socket pair for each communicator; the launcher holds both ends while it starts the ranks.", "64 ranks with ulimit -n 256"},
    {"E-EXEC-047", Failure::execution, "a system call of the transport failed",
     "The system refused a socket operation that it should not refuse.", "no free descriptor"},
    {"E-EXEC-048", Failure::execution, "a fault on purpose",
     "A test asked for this failure. Only builds with TANDEM_FAULTS can do it.", "fail@1:7:before"},
    {"E-EXEC-049", Failure::usage, "a planned fault cannot be read",
     "A fault is ACTION@RANK:OP:PHASE[:STEP] (exec/transport/fault.h).", "boom@1:2:now"},
    {"E-EXEC-060", Failure::execution, "the executor cannot be used",
     "This build has none (TANDEM_EXEC=OFF), or libtandem_exec.so does not lie beside the program or cannot be loaded.",
     "tandem execute of a build without LibTorch"},

    // --- CKPT: checkpoints -----------------------------------------------------------------------

    // --- INT: broken invariants ------------------------------------------------------------------
    {"E-INT-001", Failure::internal, "internal error",
     "An invariant of the program does not hold, or memory ran out. Please report it with the command and its input.",
     "a fault of ours"},
};
// clang-format on

std::string_view exit_text(const CodeInfo& row) {
  if (row.code[0] == 'W') return "warning";
  switch (row.failure) {
    case Failure::usage:
      return "2 usage";
    case Failure::bad_input:
      return "3 bad input";
    case Failure::infeasible:
      return "4 infeasible";
    case Failure::execution:
      return "5 execution failed";
    case Failure::peer_lost:
      return "6 timeout or peer lost";
    case Failure::output:
      return "7 output";
    case Failure::internal:
      return "70 internal";
    case Failure::interrupted:
      return "130 interrupted";
    case Failure::terminated:
      return "143 terminated";
  }
  return "?";
}

}  // namespace

std::span<const CodeInfo> diagnostic_codes() { return kCodes; }

const CodeInfo* find_code(std::string_view code) {
  for (const CodeInfo& row : kCodes)
    if (row.code == code) return &row;
  return nullptr;
}

std::string errors_page() {
  std::string page =
      "# Messages\n\n"
      "Generated from `common/base/diagnostic_codes.cpp`; do not edit. Every message has a place, "
      "a\n"
      "stable code, what was found, what was expected and a hint. The exit code of a command "
      "follows\n"
      "from its messages: 3 outranks 4.\n\n"
      "| code | exit | message | why, and what to do | example |\n"
      "| --- | --- | --- | --- | --- |\n";
  for (const CodeInfo& row : kCodes)
    page += fmt::format("| `{}` | {} | {} | {} | `{}` |\n", row.code, exit_text(row), row.title,
                        row.explanation, row.example);
  return page;
}

}  // namespace tandem
