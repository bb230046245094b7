// What a search result is worth: Sphinx's own numbers; a lesson comes before the source and the tables that also hold its word
var Scorer = {
  score: (result) => {
    const [page, , , , score] = result;
    if (page.startsWith("source-") || page === "api") return score - 8;
    if (page.startsWith("bench") || page === "workshop") return score - 4;
    return page.startsWith("api-") ? score : score + 3;
  },
  objNameMatch: 11, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
