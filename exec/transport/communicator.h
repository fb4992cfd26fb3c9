// One rank's end of one communicator group: a FIFO of ops over channels to the other members.
// LocalTransport has one for each communicator that the rank is a member of.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "exec/transport/header.h"
#include "exec/transport/local_transport.h"
#include "exec/transport/transfers.h"

namespace tandem::exec {

class GroupEnd {
 public:
  // `channels`: by member, null where the wiring has none.
  GroupEnd(const Plan& plan, CommId comm, Rank rank, std::vector<Rank> members,
           std::vector<std::unique_ptr<Channel>> channels, int abort_fd,
           const LocalOptions& options);

  [[nodiscard]] Result<Nanoseconds> run(OpId op, int step, const CommOperands& operands);
  [[nodiscard]] Traffic traffic() const;
  [[nodiscard]] Traffic traffic(OpId op) const;

 private:
  struct Call;  // one op in progress
  [[nodiscard]] Result<Nanoseconds> run_checked(OpId op, int step, const CommOperands& operands);
  [[nodiscard]] Status place(Call& call, const CommOperands& operands);
  [[nodiscard]] const OpProgram& program(const Op& op);
  [[nodiscard]] Status meet(Call& call);
  void between(const Call& call, int peer, MessageHeader& mine) const;
  [[nodiscard]] Status round(Call& call, std::size_t& at);
  [[nodiscard]] Nanoseconds end_of_token(const Call& call);
  [[nodiscard]] Channel& channel(const Call& call, int peer) const;
  [[nodiscard]] Error disagree(const Call& call, int peer, const Mismatch& mismatch,
                               const MessageHeader& theirs) const;
  [[nodiscard]] Error fault_error(const Call& call, const Fault& fault) const;
  [[nodiscard]] std::string name_of(const Call& call) const;  // "rank 2, step 4, op 117 ..."

  const Plan& plan_;
  const CommId comm_;
  const Rank rank_;
  const std::vector<Rank> members_;
  const LocalOptions options_;
  int self_ = -1;
  std::vector<std::unique_ptr<Channel>> channels_;
  Transfers transfers_;
  std::map<std::tuple<OpKind, CollectiveAlgorithm, int>, OpProgram> programs_;  // int: the peer
  std::vector<std::int64_t> sequence_;  // by member: ops so far that had it as a peer

  std::mutex running_;  // one op at a time
  std::optional<Error> failed_;
  mutable std::mutex traffic_mutex_;
  Traffic total_;
  std::map<OpId, Traffic> by_op_;
};

}  // namespace tandem::exec
