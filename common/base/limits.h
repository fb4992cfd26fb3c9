// Every limit on what comes from outside, each with its reason. Checked before memory is taken.
// To add one: name it here with its unit last, say why this number, and test the value one beyond.
#pragma once

#include <cstdint>

namespace tandem::limits {

// --- text files in general -------------------------------------------------------------------
// A scenario is a page of text; 1 MiB is 500 times the longest one we ship.
inline constexpr std::int64_t kScenarioBytes = 1 << 20;
// A plan of 50 million ops is not kept as text; 4 GiB is a plan of about 20 million ops.
inline constexpr std::int64_t kPlanTextBytes = 4LL << 30;
// One line of it: a comma list of a million buffer ids fits.
inline constexpr std::int64_t kPlanLineBytes = 16 << 20;
// Elements of one tensor or kernel dimension: 2^47 elements of 8 bytes are a petabyte.
inline constexpr std::int64_t kTensorElements = 1LL << 47;
// Calibration, JSON and CSV inputs: a table of 100,000 rows fits.
inline constexpr std::int64_t kTableBytes = 64LL << 20;
// Actions of an order (L1), read or generated: 1,024 ranks with 1,024 microbatches, F, I and W, are
// 3 million; each takes about 100 bytes while it is checked.
inline constexpr std::int64_t kOrderActions = 1 << 22;
// Actions of an order that zb_greedy searches for: each round of its descent tries a swap of every
// two neighbours, and runs the whole order for each.
inline constexpr std::int64_t kSearchedActions = 12'000;
// Timelines given to `compare` or `trace`.
inline constexpr std::int64_t kTimelineBytes = 4LL << 30;
// Recorded routing, read or written: 4 bytes for each count while it is held, so 64 Mi counts. That
// is a hundred steps of 64 ranks, 32 layers, 8 microbatches and 32 experts.
inline constexpr std::int64_t kRoutingCounts = 64LL << 20;
inline constexpr std::int64_t kRoutingBytes = 512LL << 20;  // as text
// Manifest of a checkpoint: some 200 bytes for each piece of a tensor, so a million pieces fit.
inline constexpr std::int64_t kCheckpointManifestBytes = 256LL << 20;
// Training text: bytes are tokens, 1 GiB is a million sequences of 1,024.
inline constexpr std::int64_t kTrainingTextBytes = 1LL << 30;

// --- YAML (measured with yaml-cpp 0.7: beyond these it takes seconds or hundreds of MiB) -------
inline constexpr int kYamlLineBytes = 4096;   // a longer line is no text for people
inline constexpr int kYamlBrackets = 65'536;  // of [ ] { } , : the scanner queues a token each
inline constexpr int kYamlDepth = 32;         // passes in 32 KiB of stack
inline constexpr int kYamlNodes = 200'000;    // 1 MiB of "- 1" lines is about that
inline constexpr int kYamlScalarBytes = 4096;
inline constexpr int kYamlKeysPerMapping = 4096;
inline constexpr int kJsonDepth = 64;

// --- names and messages --------------------------------------------------------------------------
inline constexpr int kNameBytes = 64;            // fits one cell of every table we print
inline constexpr int kPathBytes = 1024;          // of any path inside a scenario
inline constexpr int kDiagnosticsPrinted = 100;  // then "and N more"
inline constexpr int kDiagnosticsKept = 1000;    // of one kind while reading: bounds the memory
inline constexpr int kNotesPrinted = 4;
inline constexpr int kSourceColumns = 120;  // a source line is cut around its caret

// --- sizes of a run
// --------------------------------------------------------------------------------
inline constexpr std::int64_t kDevices = 1'048'576;   // ten times the largest known cluster
inline constexpr std::int64_t kOps = 50'000'000;      // 50 M ops take about 10 GiB
inline constexpr std::int64_t kExecutedRanks = 4096;  // processes one launcher can watch
inline constexpr std::int64_t kLayers = 65'536;       // also bounds layer_split and stages
inline constexpr std::int64_t kMicrobatches = 1'048'576;
inline constexpr std::int64_t kSteps = 1'000'000'000;
inline constexpr std::int64_t kWidth = 1LL << 24;  // of hidden, ffn, vocabulary, sequence
inline constexpr std::int64_t kNetworkLevels = 8;
inline constexpr std::int64_t kSlowDevices = 4096;
inline constexpr std::int64_t kSets = 256;  // --set options of one command

// --- sockets (exec/rendezvous)
// ---------------------------------------------------------------------
inline constexpr int kFrameBytes = 64 * 1024;      // largest frame of an authenticated peer
inline constexpr int kStrangerFrameBytes = 4096;   // all the memory a stranger can make us take
inline constexpr int kRendezvousTextBytes = 1024;  // a name, an address, a cause; not a log
inline constexpr int kLogLineBytes = 4096;         // of a rank's line as it is shown
inline constexpr std::int64_t kRankLogBytes = 64LL << 20;  // a file of a rank gone wild
inline constexpr int kPeerQueueBytes = 256 * 1024;  // unsent bytes of one peer: then it is too slow

}  // namespace tandem::limits
