"""The fake store passes the suite of the port that it stands for."""

from __future__ import annotations

from tests.db.test_journal import (  # noqa: F401 - collected here, and run on this folder's `world`
    test_a_deleted_project_takes_its_journal_along,
    test_a_group_has_the_last_offsets_in_its_order,
    test_a_new_journal_is_empty,
    test_a_page_does_not_see_another_project,
    test_a_project_that_is_not_there_has_no_journal,
    test_an_id_that_is_there_stores_nothing_of_the_group,
    test_an_id_twice_in_a_group_stores_nothing,
    test_appending_nothing_is_nothing,
    test_entries_that_await_receipts_are_the_newest_in_order_without_their_payloads,
    test_groups_of_several_projects_are_one_commit,
    test_offsets_are_found_by_sender_and_id,
    test_reading_goes_on_after_an_offset_up_to_a_limit,
    test_reading_is_bounded_in_bytes_but_gives_one_entry_at_least,
    test_reading_one_kind_counts_that_kind_alone,
    test_the_key_is_site_project_and_id,
    test_the_relays_own_events_have_no_key,
    test_the_session_that_published_is_not_stored,
    test_what_is_read_is_what_was_appended,
    test_what_is_read_is_what_was_appended_at_once,
)
