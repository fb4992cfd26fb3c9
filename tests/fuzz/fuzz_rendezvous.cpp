// Any bytes, cut into any pieces, from a stranger and from a rank that has joined: the hub and the
// member answer or close, hold no more than a frame, and never fail.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include "exec/rendezvous/hub.h"
#include "exec/rendezvous/member.h"

using namespace tandem::exec;

namespace {

HubConfig config() {
  HubConfig out;
  out.world = 2;
  out.version = "v";
  out.plan_id = "beef";
  out.nonce = [] { return Nonce{}; };
  return out;
}

// A rank of a hub with this configuration that is in its run.
void bring_in(Hub& hub, int peer, int rank) {
  hub.connected(peer, 0);
  hub.received(peer, encode_frame(MessageType::hello, encode(Nonce{})), 0);
  const Proof proof = prove(tandem::exec::Token(), Role::client, Nonce{}, Nonce{});
  hub.received(peer, encode_frame(MessageType::proof, encode(proof)), 0);
  hub.received(peer,
               encode_frame(MessageType::join, encode(Join{"v", "beef", 2, rank, "local", ""})), 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::size_t piece = 1 + data[0];
  const bool joined = data[1] & 1;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  Hub hub(config(), 0);
  if (joined) {
    bring_in(hub, 1, 0);
    bring_in(hub, 2, 1);
  } else {
    hub.connected(1, 0);
  }
  Member member({{"v", "beef", 2, 0, "local", ""}, tandem::exec::Token(), Nonce{}, 60}, 0);
  for (std::size_t at = 0; at < bytes.size(); at += piece) {
    const std::string_view part = bytes.substr(at, piece);
    hub.received(1, part, static_cast<tandem::Nanoseconds>(at));
    member.received(part, static_cast<tandem::Nanoseconds>(at));
    for (const HubAction& a : hub.take_actions())
      if (a.peer == 2 && a.close) __builtin_trap();  // a rank is never hurt by another's bytes
    (void)hub.take_events();
    (void)member.take_bytes();
  }
  hub.tick(1'000'000'000'000);
  return 0;
}
